"""What every service shares; imports no service."""

import os

# gRPC's core would add lines of its own to an error that we tell in one; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
