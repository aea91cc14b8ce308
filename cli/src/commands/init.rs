//! `init`: a new organisation with two sites. Shows the recovery key once, with advice.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use strongroom_certs::Cost;
use strongroom_protocol::{OrgName, SiteName};

use crate::failure::{Ending, Failure};
use crate::secrets::{new_passphrase, sheet};
use crate::session::{Session, blocking};
use crate::setup::{InitOrder, InitReport, init};

/// Set up an organisation: its root, a coordinator, a proxy, and you as its first operator
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Where to put it; may exist
    dir: PathBuf,
    /// Name of the organisation
    #[arg(long)]
    org: OrgName,
    /// Name of the first site, where the coordinator runs
    #[arg(long, default_value = "primary")]
    site: SiteName,
    /// Name of the other site, where the proxy runs
    #[arg(long, default_value = "secondary")]
    dr_site: SiteName,
    /// Where the coordinator listens (UDP)
    #[arg(long, default_value = "0.0.0.0:7433", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Where the proxy listens (UDP)
    #[arg(long, default_value = "0.0.0.0:7434", value_name = "IP:PORT")]
    dr_listen: SocketAddr,
    /// What others dial to reach the coordinator
    #[arg(long, default_value = "127.0.0.1:7433", value_name = "HOST:PORT")]
    address: String,
    /// What others dial to reach the proxy
    #[arg(long, default_value = "127.0.0.1:7434", value_name = "HOST:PORT")]
    dr_address: String,
    /// Blank cartridges of the proxy's tape library
    #[arg(long, default_value_t = 8)]
    cartridges: u32,
    /// What a cartridge holds, in GiB
    #[arg(long, default_value_t = 64, value_name = "GIB")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=65536))]
    cartridge_gib: u64,
    /// A file with the passphrase for the root and the vault key
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl InitArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let passphrase = new_passphrase(self.passphrase_file.as_deref())?;
        let order = InitOrder {
            dir: self.dir,
            org: self.org,
            site: self.site,
            dr_site: self.dr_site,
            passphrase,
            listen_coordinator: self.listen,
            listen_proxy: self.dr_listen,
            coordinator_address: self.address,
            proxy_address: self.dr_address,
            cartridges: self.cartridges,
            cartridge_bytes: self.cartridge_gib << 30,
            cost: Cost::STANDARD,
            now: session.clock.now(),
        };
        let report = blocking(move || Ok(init(&order)?)).await?;
        let value = serde_json::json!({
            "recovery_key": *report.recovery.to_text(),
            "root": report.root.to_string(),
            "repository": report.repo,
            "org_dir": report.org_dir,
            "coordinator_dir": report.coordinator_dir,
            "proxy_dir": report.proxy_dir,
            "operator_dir": report.operator_dir,
        });
        session.out.either(&value, |_| told(&report))?;
        Ok(Ending::Done)
    }
}

fn told(report: &InitReport) -> String {
    let show = |path: &std::path::Path| path.display().to_string();
    let mut told = format!(
        "{}It opens everything\nwhen the passphrase is lost; with one copy of the data it \
         is all a restore needs.\n\nMove {} off this host and keep it offline; it is needed only \
         to add sites.\n\nNext:\n",
        *sheet(&report.recovery),
        show(&report.org_dir),
    );
    let proxy = show(&report.proxy_dir);
    for step in [
        format!("export STRONGROOM_HOME={}", show(&report.operator_dir)),
        format!("strongroom run coordinator {} &", show(&report.coordinator_dir)),
        format!("strongroom enrol {proxy} $(strongroom token create proxy proxy | head -1)"),
        format!("strongroom run proxy {proxy} &"),
        "strongroom status".to_owned(),
    ] {
        told.push_str(&format!("  {step}\n"));
    }
    told
}
