"""Judges responses: math answers by equivalence, programs by running their tests in a sandbox."""
