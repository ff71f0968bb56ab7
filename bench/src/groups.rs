//! The groups, and the programs that each starts. README.md explains what each is for.

mod calls;
mod first;
mod lists;
mod scale;
mod wires;

use anyhow::Result;

use crate::candidate::Group;
use crate::peers::Peers;
use crate::plan::Plan;
use crate::testbed::{Behind, Gateway, Testbed};
use crate::usage::Family;

pub(crate) use calls::call_as;
pub(crate) use first::steps;

/// All names, in the order in which they are measured.
pub(crate) const NAMES: [&str; 15] = [
    "call",
    "call-json",
    "call-sse",
    "large",
    "huge",
    "open",
    "open-peers",
    "list",
    "wire",
    "progress",
    "first",
    "sessions",
    "servers",
    "tools",
    "threads",
];

/// Those that a quick run makes.
pub(crate) const QUICK: [&str; 6] = ["call", "call-json", "huge", "open", "list", "wire"];

/// What the groups share: edges in front of a server of both eras and one of the legacy era alone.
pub(crate) struct Shared {
    pub(crate) testbed: Testbed,
    pub(crate) peers: Peers,
    /// Over TCP, the bridge with pipes: its default.
    pub(crate) edge: Path,
    /// Over TCP, the bridge handing its socket to the server.
    pub(crate) handoff: Path,
    /// Over a unix socket, handed to the server too: what containers of one pod can have.
    pub(crate) unix: Path,
    /// The edge starts the server itself.
    pub(crate) local: Path,
}

/// An edge and what lies behind it.
#[derive(Clone)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) gateway: Gateway,
    /// Edge and bridges.
    pub(crate) family: Family,
}

impl Shared {
    pub(crate) async fn start(plan: &Plan) -> Result<Shared> {
        let mut testbed = Testbed::new()?;
        let tcp = (testbed.bridge(&[], &BOTH).await?, testbed.bridge(&[], &LEGACY).await?);
        let edge = Path::start(&mut testbed, "edge", &tcp).await?;
        let hand = ["--stdio", "handoff"];
        let handed = (testbed.bridge(&hand, &BOTH).await?, testbed.bridge(&hand, &LEGACY).await?);
        let handoff = Path::start(&mut testbed, "edge handoff", &handed).await?;
        let socket = (testbed.unix_bridge(&hand, &BOTH).await?, testbed.unix_bridge(&hand, &LEGACY).await?);
        let unix = Path::start(&mut testbed, "edge unix", &socket).await?;
        let local = Path::local(&mut testbed).await?;
        let peers = Peers::start(&mut testbed, plan).await?;
        Ok(Shared { testbed, peers, edge, handoff, unix, local })
    }

    /// Builds one group.
    pub(crate) async fn group(&mut self, name: &str, plan: &Plan) -> Result<Vec<Group>> {
        let group = match name {
            "call" => calls::modern(self, plan).await?,
            "call-json" => calls::legacy(self, plan).await?,
            "call-sse" => calls::legacy_events(self, plan).await?,
            "large" => return calls::sized(self, plan, ("large", "r13k", "13 KB")).await,
            "huge" => return calls::sized(self, plan, ("huge", "r200k", "200 KB")).await,
            "open" => calls::open(self).await?,
            "open-peers" => calls::open_peers(self).await?,
            "list" => lists::list(self, plan).await?,
            "wire" => return wires::all(self, plan).await,
            "progress" => calls::progress(self, plan).await?,
            "first" => first::first(self).await?,
            "sessions" => scale::sessions(self, plan).await?,
            "servers" => scale::servers(self, plan).await?,
            "tools" => scale::tools(self, plan).await?,
            "threads" => scale::threads(self, plan).await?,
            _ => anyhow::bail!("there is no group {name}; there are {}", NAMES.join(", ")),
        };
        Ok(vec![group])
    }
}

impl Path {
    async fn start(
        testbed: &mut Testbed,
        name: &'static str,
        (both, legacy): &(Behind, Behind),
    ) -> Result<Path> {
        let config = format!(
            "servers:\n  both: {{address: \"{}\"}}\n  legacy: {{address: \"{}\"}}\n",
            both.address, legacy.address
        );
        let gateway = testbed.edge(&config).await?;
        let family = gateway.family.and(&both.family).and(&legacy.family);
        Ok(Path { name, gateway, family })
    }

    async fn local(testbed: &mut Testbed) -> Result<Path> {
        let command = |server: &[&str]| -> Result<String> {
            Ok(serde_json::to_string(&crate::testbed::server_command(server)?)?)
        };
        let config = format!(
            "servers:\n  both: {{command: {}}}\n  legacy: {{command: {}}}\n",
            command(&BOTH)?,
            command(&LEGACY)?
        );
        let gateway = testbed.edge(&config).await?;
        let family = gateway.family.clone();
        Ok(Path { name: "edge local", gateway, family })
    }
}

/// Tools `m-…`, in both eras.
pub(crate) const BOTH: [&str; 2] = ["--prefix", "m-"];
/// Tools `l-…`, with a handshake only, as most servers are today.
pub(crate) const LEGACY: [&str; 4] = ["--era", "legacy", "--prefix", "l-"];
