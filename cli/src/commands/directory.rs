//! `directory`: points of Active Directory, looked into, compared and put back. Reads points at
//! a node or straight from media; changes the live directory from here, by LDAPS.

mod between;
mod look;
mod prove;
mod put_back;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_agent::restore::select::Selection;
use strongroom_agent::workload::directory::ldap::Server;
use strongroom_agent::workload::directory::password;
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_protocol::admin::PointRef;

use crate::commands::restore::copy_site;
use crate::failure::{Ending, Failure};
use crate::restoring::find;
use crate::scene::{Scene, open_remote, resolve};
use crate::secrets::OpenerArgs;
use crate::session::{Session, blocking};
use crate::shelf::{Shelf, aim};

/// Look into points of a directory (Active Directory), compare them, put objects back
#[derive(Args, Debug)]
pub(crate) struct DirectoryArgs {
    #[command(subcommand)]
    command: DirectoryCommand,
}

#[derive(Subcommand, Debug)]
enum DirectoryCommand {
    Ls(look::LsArgs),
    Show(look::ShowArgs),
    Search(look::SearchArgs),
    Compare(between::CompareArgs),
    Prove(prove::ProveArgs),
    Restore(put_back::RestoreArgs),
    Undo(put_back::UndoArgs),
}

impl DirectoryArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.command {
            DirectoryCommand::Ls(args) => args.run(session).await,
            DirectoryCommand::Show(args) => args.run(session).await,
            DirectoryCommand::Search(args) => args.run(session).await,
            DirectoryCommand::Compare(args) => args.run(session).await,
            DirectoryCommand::Prove(args) => args.run(session).await,
            DirectoryCommand::Restore(args) => args.run(session).await,
            DirectoryCommand::Undo(args) => args.run(session).await,
        }
    }
}

/// Where a point is read.
#[derive(Args, Debug, Clone)]
struct SourceArgs {
    /// Which copy: primary, secondary, or a site
    #[arg(long, value_name = "COPY", conflicts_with = "media")]
    from: Option<String>,
    /// Straight from the cartridges in this library's directory, without any node
    #[arg(long, value_name = "DIR")]
    media: Option<PathBuf>,
    #[command(flatten)]
    opener: OpenerArgs,
}

impl SourceArgs {
    /// What the point shows.
    async fn picture(&self, session: &Session, point: &PointRef) -> Result<Picture, Failure> {
        let Some(media) = self.media.clone() else {
            let site = copy_site(session, self.from.as_deref())?;
            let contact = session.contact_at(site.as_ref()).await?;
            let point = resolve(&contact, point).await?;
            let scene = open_remote(&contact, point).await?;
            return blocking(move || Ok(Picture::open(&scene.tree)?)).await;
        };
        let (opener, point) = (self.opener.opener()?, point.clone());
        blocking(move || {
            let staging = tempfile::tempdir()?;
            let shelf = Shelf::open(&media)?;
            let found = find(shelf.points(Some(&opener))?, &point)?;
            let key = shelf.vault_key(found.repo, &opener)?;
            let mut staged = shelf.stage(staging.path(), found.point, &key)?;
            let page = aim(&staged.scene, b"")?.page;
            let wanted = vec![b"contexts".to_vec(), b"strongroom.json".to_vec()];
            let selection = Selection::new(wanted, &[])?;
            let brought = staged.bring(staging.path(), page, &selection, &mut |_| {})?;
            if brought.lacking > 0 {
                let wanted: Vec<&str> = brought.wanted.iter().map(String::as_str).collect();
                let text = format!("{} chunks are on no cartridge here", brought.lacking);
                return Err(Failure::new(text).hint(format!("insert {}", wanted.join(", "))));
            }
            let scene: &Scene = &staged.scene;
            Ok(Picture::open(&scene.tree)?)
        })
        .await
    }
}

/// The live directory, and who asks.
#[derive(Args, Debug, Clone)]
struct ServerArgs {
    /// The domain controller, as `ldaps://HOST`; without it, the one the point was made of
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Who asks: user@domain, DOMAIN\user or a distinguished name
    #[arg(long, value_name = "ACCOUNT")]
    bind: Option<String>,
    /// A file with the password, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Believe this authority, or this very certificate, in PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl ServerArgs {
    fn server(&self, usual: Option<&str>) -> Result<Server, Failure> {
        let wanted = |what: &str| Failure::usage(format!("the live directory needs {what}"));
        let url = self.url.as_deref().or(usual).ok_or_else(|| wanted("--url"))?.to_owned();
        let bind = self.bind.clone().ok_or_else(|| wanted("--bind"))?;
        let file = self.password_file.as_ref().ok_or_else(|| wanted("--password-file"))?;
        Ok(Server { url, bind, password: password(file)?, ca_file: self.ca_file.clone() })
    }
}

/// Where a picture says it was taken.
fn usual(picture: &Picture) -> Option<&str> {
    picture.about.as_ref().map(|about| about.url.as_str())
}
