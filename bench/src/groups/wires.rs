//! The same small call over HTTP/1.1 with TLS 1.3, HTTP/2 without and with it.

use anyhow::Result;

use super::calls::call;
use super::{BOTH, Shared};
use crate::house;
use crate::lane::{Group, Lane, Step};
use crate::load::To;
use crate::plan::Plan;

pub(super) async fn all(shared: &mut Shared, plan: &Plan) -> Result<Vec<Group>> {
    let house = &mut shared.house;
    let behind = house.bridge(&[], &BOTH).await?;
    let servers = format!("servers:\n  both: {{address: \"{}\"}}\n", behind.address);
    let plain = house.edge(&servers).await?;
    let (certificate, key) = house.tls.clone();
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}\n{servers}", certificate.display(), key.display());
    let secure = house.edge(&tls).await?;
    let request = call(&house::modern(plain.address), "m-r200");
    let tried = plain.try_out(&request).await?;
    let mut groups = Vec::new();
    for (http2, over_tls) in [(false, false), (false, true), (true, false), (true, true)] {
        let requests = house.requests([request.bytes("localhost").as_slice()])?;
        let bare = house.bare(&tried, http2, over_tls).await?;
        let edge = if over_tls { &secure } else { &plain };
        let lane = |side: &str, gateway: &house::Gateway| {
            let trusted = over_tls.then(|| certificate.clone());
            let to = To::Http { address: gateway.address, http2, tls: trusted };
            Lane::new(side, to, requests.clone(), gateway.family.clone())
        };
        let lanes = vec![lane("bare", &bare), lane("edge", edge)];
        let (version, security) =
            (if http2 { "HTTP/2" } else { "HTTP/1.1" }, if over_tls { ", TLS 1.3" } else { "" });
        let how = if http2 { ", streams of one connection" } else { "" };
        let title = format!("tools/call with a result of 200 B over {version}{security}{how}");
        groups.push(Group { name: "wire", title, steps: Step::closed(&plan.few()), lanes, base: "bare" });
    }
    Ok(groups)
}
