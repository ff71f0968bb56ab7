//! Scripted MCP servers and clients for tests.
