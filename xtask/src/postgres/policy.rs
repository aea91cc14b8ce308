//! The campaign's policy: the cluster, its standby, and a copy at the other site.

use std::path::Path;

use anyhow::{Context, Result};

use super::server::Server;

/// A policy with the first workload.
pub(super) fn policy(server: &Server) -> Result<String> {
    Ok(String::from(
        r#"[policy.p]
timezone = "Europe/London"
[policy.p.primary]
keep = { newest = 1000 }
[policy.p.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = { newest = 1000 }
"#,
    ) + &workload(super::WORKLOADS[0], server)?)
}

/// One more workload of it.
pub(super) fn workload(name: &str, server: &Server) -> Result<String> {
    let host: &Path = &server.place;
    let host = host.to_str().context("a path that TOML cannot hold")?;
    let port = server.port;
    Ok(format!(
        r#"[workload."{name}"]
agent = "host1"
kind = "postgres"
host = "{host}"
port = {port}
policy = "p"
"#
    ))
}
