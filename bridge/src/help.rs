//! The text of `--help`.

/// The options are in the order in which people need them.
pub(crate) const TEXT: &str = "\
docker-mcp-bridge: puts a stdio MCP server behind a TCP or unix socket

Usage:
  docker-mcp-bridge [OPTIONS] [--] COMMAND [ARGUMENTS...]
  docker-mcp-bridge --install DIR
  docker-mcp-bridge --check [ADDRESS]

Every connection gets a process of its own, started at the first byte received
and ended with the connection. The first word that is not an option is the
command; everything after it is passed on unchanged.

Listening:
  --listen ADDRESS         host:port or unix:/path, repeatable
                           (default :4444, all addresses, IPv6 and IPv4)

Bytes:
  --stdio pipe|handoff     pipe: the server's stdin and stdout are pipes.
                           handoff: the socket itself is its stdin and stdout,
                           which costs nothing per byte but does not suit
                           servers on Python's asyncio (default pipe)
  --warm N                 processes started ahead, for servers that start
                           slowly; not with --stdio handoff (default 0)

Bounds:
  --max-connections N      processes at a time; further connections are closed
                           at their first byte (default 256)
  --max-waiting N          connections without a process; over it the oldest is
                           closed (default 1024)
  --first-byte-timeout T   until a silent connection is closed (default 60s)
  --client-timeout T       a client that acknowledges nothing for this long
                           counts as gone, and its process is stopped; at least
                           4s (default 120s)

Stopping:
  --stop-grace T           after the client closes, or half-closes, the server
                           has this long to finish its answers; then SIGTERM,
                           2s later SIGKILL (default 5s)
  --drain T                on SIGTERM or SIGINT, time for connections to finish;
                           a second signal ends it, unless it comes within
                           300ms of the first (default 20s)

Instead of serving:
  --install DIR            copy this program into DIR
  --check [ADDRESS]        exit 0 if a bridge listens there, else 1; starts no
                           server (default: what --listen says)
  -h, --help               print this text
  -V, --version            print the version

Each option can be set by a variable: --max-waiting is
DOCKER_MCP_BRIDGE_MAX_WAITING. In DOCKER_MCP_BRIDGE_LISTEN commas separate.
Times are written 500ms, 20s, 5m, 1h.

Exit codes: 0 stopped as asked, 1 cannot serve, 2 wrong usage,
126 the command is not executable, 127 there is no such command.
";
