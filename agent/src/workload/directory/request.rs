//! A change as the requests that make it, and what is done where the server refuses it whole.

use std::collections::HashSet;

use ldap3::Mod;

use crate::workload::directory::ber;
use crate::workload::directory::carry::CarryError;
use crate::workload::directory::change::{Act, Change, Edit, split};
use crate::workload::directory::ldap::{Connection, LdapProblem, Modification};

/// Characters of a random password; with some of every kind.
const PASSWORD_BYTES: usize = 24;

/// One change; how many requests it took, and what was refused of it.
pub(super) async fn carry(
    connection: &Connection,
    change: &Change,
) -> Result<(u64, Vec<String>), CarryError> {
    let done = match change {
        Change::Add { dn, attributes } => {
            let attributes = attributes.0.iter().map(|(name, values)| {
                (name.clone().into_bytes(), values.iter().cloned().collect())
            });
            connection.add(dn, attributes.collect(), vec![]).await
        }
        Change::Delete { dn } => connection.delete(dn).await,
        Change::Modify { dn, edits } => modify(connection, dn, edits, vec![]).await,
        Change::Password { dn, edits } => {
            let secret = password()?;
            let quoted: Vec<u8> =
                format!("\"{secret}\"").encode_utf16().flat_map(u16::to_le_bytes).collect();
            let mut more = vec![replaced("unicodePwd", quoted)];
            more.push(replaced("pwdLastSet", b"0".to_vec()));
            modify(connection, dn, edits, more).await
        }
        Change::Reanimate { tombstone, dn, edits, .. } => {
            let whole = reanimate(connection, tombstone, dn, edits).await;
            match whole {
                // An attribute may be refused: first the object, the rest afterwards.
                Err(problem) if problem.code().is_some() && !edits.is_empty() => {
                    reanimate(connection, tombstone, dn, &[]).await
                }
                done => done,
            }
        }
        Change::Rename { dn, to } => {
            let (rdn, above) = split(to);
            connection.rename(dn, rdn, above).await
        }
    };
    match (done, change) {
        (Ok(()), _) => Ok((1, Vec::new())),
        (Err(problem), Change::Modify { dn, edits }) if problem.code().is_some() => {
            one_by_one(connection, dn, edits, problem).await
        }
        (Err(problem), _) if problem.code().is_some() => Ok((0, vec![problem.to_string()])),
        (Err(problem), _) => Err(problem.into()),
    }
}

async fn reanimate(
    connection: &Connection,
    tombstone: &str,
    dn: &str,
    edits: &[Edit],
) -> Result<(), LdapProblem> {
    let more = vec![
        Mod::Delete(b"isDeleted".to_vec(), HashSet::new()),
        replaced("distinguishedName", dn.as_bytes().to_vec()),
    ];
    let mut changes = more;
    changes.extend(edits.iter().map(modification));
    connection.modify(tombstone, changes, vec![ber::show_deleted()]).await
}

async fn modify(
    connection: &Connection,
    dn: &str,
    edits: &[Edit],
    more: Vec<Modification>,
) -> Result<(), LdapProblem> {
    let descriptor = edits.iter().any(|edit| edit.attribute == "nTSecurityDescriptor");
    let controls = if descriptor { vec![ber::security_descriptor()] } else { vec![] };
    let changes = edits.iter().map(modification).chain(more).collect();
    connection.modify(dn, changes, controls).await
}

/// All at once was refused: each attribute, and each value of a link, by itself.
async fn one_by_one(
    connection: &Connection,
    dn: &str,
    edits: &[Edit],
    whole: LdapProblem,
) -> Result<(u64, Vec<String>), CarryError> {
    let mut single: Vec<Edit> = Vec::new();
    for edit in edits {
        match edit.act {
            Act::Replace => single.push(edit.clone()),
            _ => single.extend(
                edit.values
                    .iter()
                    .map(|value| Edit { values: vec![value.clone()], ..edit.clone() }),
            ),
        }
    }
    if single.len() < 2 {
        return Ok((0, vec![whole.to_string()]));
    }
    let (mut changes, mut refused) = (0, Vec::new());
    for edit in &single {
        match modify(connection, dn, std::slice::from_ref(edit), vec![]).await {
            Ok(()) => changes += 1,
            Err(problem) if problem.code().is_some() => {
                refused.push(format!("{}: {problem}", edit.attribute));
            }
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok((changes, refused))
}

fn replaced(attribute: &str, value: Vec<u8>) -> Modification {
    Mod::Replace(attribute.as_bytes().to_vec(), HashSet::from([value]))
}

fn modification(edit: &Edit) -> Modification {
    let attribute = edit.attribute.clone().into_bytes();
    let values = edit.values.iter().cloned().collect();
    match edit.act {
        Act::Add => Mod::Add(attribute, values),
        Act::Remove => Mod::Delete(attribute, values),
        Act::Replace => Mod::Replace(attribute, values),
    }
}

/// Random, with a character of every kind that a domain may ask for.
fn password() -> Result<String, CarryError> {
    let bytes: [u8; PASSWORD_BYTES] =
        strongroom_certs::secret::random().map_err(|_| CarryError::Random)?;
    Ok(format!("aA1.{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)))
}
