//! `keys`: who can open a repository, changed in the home of the node that holds it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use strongroom_certs::Cost;
use strongroom_protocol::Role;

use crate::failure::{Ending, Failure};
use crate::keyring::{Alone, Held, Keyring, Known};
use crate::output::{Face, Output};
use crate::secrets::{OpenerArgs, replacing_passphrase, sheet};
use crate::session::{Session, blocking};
use crate::show::table::{Align, Sheet};
use crate::vault::{Opener, Recipient};

/// Who can open a repository: passphrase, recovery keys, key epochs
#[derive(Args, Debug)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    order: KeysOrder,
}

#[derive(Args, Debug)]
struct Place {
    /// The directory of the coordinator or proxy
    home: PathBuf,
    #[command(flatten)]
    opener: OpenerArgs,
}

#[derive(Subcommand, Debug)]
enum KeysOrder {
    /// List who can open it, without any secret; with one, say whose it is
    List(Place),
    /// Change the passphrase; the old one or a recovery key opens
    Passphrase {
        #[command(flatten)]
        place: Place,
        /// A file with the new passphrase
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Add a recovery key, which is shown once
    AddRecovery(Place),
    /// Remove a recipient; what you give has to open what is left
    Remove {
        #[command(flatten)]
        place: Place,
        /// As `keys list` names it
        #[arg(long)]
        recipient: String,
    },
    /// Begin a key epoch: what is new is sealed under a new key, for the passphrase and a new
    /// recovery key only
    Rotate {
        #[command(flatten)]
        place: Place,
        /// A file with the passphrase from now on; needed where a recovery key opens
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// There is no proxy that has to have the new key first
        #[arg(long)]
        alone: bool,
    },
    /// Take over the keys of the other site, or write a lost vault.key again
    Adopt {
        #[command(flatten)]
        place: Place,
        /// The file repo/keys of the other site's node
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
}

impl KeysArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let out = session.out.clone();
        blocking(move || match self.order {
            KeysOrder::List(place) => list(&place, &out),
            KeysOrder::Passphrase { place, new_passphrase_file } => {
                passphrase(&place, new_passphrase_file.as_deref(), &out)
            }
            KeysOrder::AddRecovery(place) => add_recovery(&place, &out),
            KeysOrder::Remove { place, recipient } => remove(&place, &recipient, &out),
            KeysOrder::Rotate { place, new_passphrase_file, alone } => {
                let alone = if alone { Alone::Yes } else { Alone::No };
                rotate(&place, new_passphrase_file.as_deref(), alone, &out)
            }
            KeysOrder::Adopt { place, from } => adopt(&place, from.as_deref(), &out),
        })
        .await?;
        Ok(Ending::Done)
    }
}

fn list(place: &Place, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let known = keyring.known()?;
    let yours = match place.opener.is_given() {
        true => Some(keyring.whose(&place.opener.opener()?)?),
        false => None,
    };
    let recipients: Vec<_> = known
        .recipients
        .iter()
        .map(|found| {
            json!({
                "recipient": found.name,
                "kind": found.kind.map(|kind| kind.as_str()),
                "yours": yours.as_ref().map(|yours| yours == found),
            })
        })
        .collect();
    let value = json!({
        "repository": known.repo,
        "epochs": known.epochs,
        "vault_key": held(known.held),
        "recipients": recipients,
    });
    Ok(out.either(&value, |face| listed(&known, yours.as_ref(), face))?)
}

fn listed(known: &Known, yours: Option<&Recipient>, face: &Face) -> String {
    let columns = [("RECIPIENT", Align::Left), ("OPENS WITH", Align::Left), ("", Align::Left)];
    let mut sheet = Sheet::new(&columns, "nobody can open this repository", face);
    for found in &known.recipients {
        let kind = found.kind.map_or("damaged", |kind| kind.as_str());
        let mark = if yours == Some(found) { "yours" } else { "" };
        sheet.row([found.name.clone(), kind.to_owned(), mark.to_owned()]);
    }
    let epochs = known.epochs;
    format!("{}\nkey epoch {epochs}; vault.key {}\n", sheet.finish(), held(known.held))
}

fn held(held: Held) -> String {
    match held {
        Held::All => "holds it".to_owned(),
        Held::Behind { epochs } => format!("ends at epoch {epochs}: run `strongroom keys adopt`"),
        Held::Nothing => "is missing or damaged: run `strongroom keys adopt`".to_owned(),
        Held::Other => "is of another repository: run `strongroom keys adopt`".to_owned(),
    }
}

fn passphrase(place: &Place, new: Option<&Path>, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let opener = place.opener.opener()?;
    let recipient =
        keyring.change_passphrase(&opener, replacing_passphrase(new)?, Cost::STANDARD)?;
    out.either(&json!({ "recipient": recipient.name }), |_| {
        format!(
            "the passphrase is changed, as recipient {}; no restart is needed\n{}",
            recipient.name,
            elsewhere(&keyring)
        )
    })?;
    Ok(())
}

fn add_recovery(place: &Place, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let (recipient, recovery) = keyring.add_recovery(&place.opener.opener()?)?;
    let value = json!({ "recipient": recipient.name, "recovery_key": *recovery.to_text() });
    out.either(&value, |_| {
        format!(
            "{}It is recipient {}.\n\n{}",
            *sheet(&recovery),
            recipient.name,
            elsewhere(&keyring)
        )
    })?;
    Ok(())
}

fn remove(place: &Place, name: &str, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let gone = keyring.remove(&place.opener.opener()?, name)?;
    let kind = gone.kind.map_or("damaged record", |kind| kind.as_str());
    out.either(&json!({ "recipient": gone.name }), |_| {
        format!("{kind} {} is removed; no restart is needed\n{}", gone.name, elsewhere(&keyring))
    })?;
    Ok(())
}

fn rotate(place: &Place, new: Option<&Path>, alone: Alone, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let opener = place.opener.opener()?;
    let passphrase = match (&opener, new) {
        (Opener::Passphrase(secret), None) => secret.clone(),
        (_, new) => replacing_passphrase(new)?,
    };
    let rotated = keyring.rotate(&opener, &passphrase, Cost::STANDARD, alone)?;
    let epoch = rotated.epoch;
    let value = json!({ "epoch": epoch, "recovery_key": *rotated.recovery.to_text() });
    out.either(&value, |_| {
        let next = match keyring.role() {
            Role::Proxy => format!(
                "Now restart the proxy; then copy {} to the coordinator's host, run `strongroom \
                 keys adopt HOME --from FILE` there, and restart the coordinator: from then on it \
                 seals under epoch {epoch}.\n",
                keyring.file().display()
            ),
            _ => format!("Now restart the coordinator: then it seals under epoch {epoch}.\n"),
        };
        format!(
            "{}Other recovery keys open only what was written before: add further ones \
             anew.\n\nkey epoch {epoch} is begun. {next}",
            *sheet(&rotated.recovery)
        )
    })?;
    rotated.written.map_err(|error| {
        let hint = "keep the recovery key above, it is in force; then run `strongroom keys adopt`";
        Failure::from(error).hint(hint)
    })
}

fn adopt(place: &Place, from: Option<&Path>, out: &Output) -> Result<(), Failure> {
    let keyring = Keyring::open(&place.home)?;
    let epoch = keyring.adopt(from, &place.opener.opener()?)?;
    out.either(&json!({ "epoch": epoch }), |_| {
        format!("vault.key and the keys file are of epoch {epoch}; restart the node\n")
    })?;
    Ok(())
}

/// Each site has a keys file of its own, and media are never written twice.
fn elsewhere(keyring: &Keyring) -> String {
    let other = if keyring.role() == Role::Proxy { "coordinator" } else { "proxy" };
    format!(
        "The {other} has a keys file of its own: copy {} to its host and run `strongroom keys \
         adopt HOME --from FILE` there.\nMedia written from now on have these keys; what was \
         written before stays open to whom it was open.\n",
        keyring.file().display()
    )
}
