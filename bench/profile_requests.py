"""Prints requests as the load wants them, each after its length: ADDRESS modern|session SESSIONS. Opens the sessions."""

import http.client
import json
import sys

AUTHORIZATION = {"Authorization": "Bearer a-token"}
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
CLIENT = {"name": "bench", "version": "1"}
LEGACY = "2025-06-18"
META = "io.modelcontextprotocol/"


def main():
    address, kind, sessions = sys.argv[1], sys.argv[2], int(sys.argv[3])
    params = {"arguments": {"place": "Weimar", "kind": "library"}, "name": "r200"}
    if kind == "modern":
        version = "2026-07-28"
        params["_meta"] = {
            META + "protocolVersion": version,
            META + "clientInfo": CLIENT,
            META + "clientCapabilities": {},
        }
        write({"MCP-Protocol-Version": version, "Mcp-Method": "tools/call", "Mcp-Name": "r200"}, params)
        return
    connection = http.client.HTTPConnection(address, timeout=30)
    for _ in range(sessions):
        write({"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": opened(connection)}, params)


def opened(connection):
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    connection.request("POST", "/mcp", body, {**AUTHORIZATION, **JSON})
    response = connection.getresponse()
    response.read()
    return response.headers["mcp-session-id"]


def write(headers, params):
    message = {"id": 1, "jsonrpc": "2.0", "method": "tools/call", "params": params}
    body = json.dumps(message, separators=(",", ":"))
    headers = {"Host": "localhost", "Content-Length": len(body), **JSON, **AUTHORIZATION, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /mcp HTTP/1.1\r\n{lines}\r\n{body}"
    sys.stdout.write(f"{len(request)}\n{request}")


if __name__ == "__main__":
    main()
