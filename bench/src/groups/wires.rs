//! One small call over HTTP/1.1 with TLS 1.3, and over HTTP/2 without and with TLS.

use anyhow::Result;

use super::calls::call;
use super::{BOTH, Shared};
use crate::candidate::{Candidate, Group, Step};
use crate::load::To;
use crate::plan::Plan;
use crate::testbed;

pub(super) async fn all(shared: &mut Shared, plan: &Plan) -> Result<Vec<Group>> {
    let testbed = &mut shared.testbed;
    let behind = testbed.bridge(&[], &BOTH).await?;
    let servers = format!("servers:\n  both: {{address: \"{}\"}}\n", behind.address);
    let plain = testbed.edge(&servers).await?;
    let (certificate, key) = testbed.tls.clone();
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}\n{servers}", certificate.display(), key.display());
    let secure = testbed.edge(&tls).await?;
    let request = call(&testbed::modern(plain.address), "m-r200");
    let tried = plain.try_out(&request).await?;
    let mut groups = Vec::new();
    for (http2, over_tls) in [(false, false), (false, true), (true, false), (true, true)] {
        let requests = testbed.requests([request.bytes("localhost").as_slice()])?;
        let bare = testbed.bare(&tried, http2, over_tls).await?;
        let edge = if over_tls { &secure } else { &plain };
        let candidate = |side: &str, gateway: &testbed::Gateway| {
            let trusted = over_tls.then(|| certificate.clone());
            let to = To::Http { address: gateway.address, http2, tls: trusted };
            Candidate::new(side, to, requests.clone(), gateway.family.clone())
        };
        let candidates = vec![candidate("bare", &bare), candidate("edge", edge)];
        let (version, security) =
            (if http2 { "HTTP/2" } else { "HTTP/1.1" }, if over_tls { ", TLS 1.3" } else { "" });
        let how = if http2 { ", streams of one connection" } else { "" };
        let title = format!("tools/call with a result of 200 B over {version}{security}{how}");
        groups.push(Group {
            name: "wire",
            title,
            steps: Step::closed(&plan.few()),
            candidates,
            base: "bare",
        });
    }
    Ok(groups)
}
