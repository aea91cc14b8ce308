//! Who is in a domain that is made to be tried on: units, users and groups in any number, with
//! names that need care and values that are no text.

use std::collections::BTreeMap;

use super::DOMAIN;
use crate::workload::directory::carry::{Carrier, CarryError, Outcome};
use crate::workload::directory::change::{Act, Change, Edit};
use crate::workload::directory::object::{Attributes, depth};

/// What [`fill`] makes below one organisational unit.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub users: usize,
    /// Users in a unit of their own within it.
    pub users_a_unit: usize,
    /// One user in so many is enabled, with a password.
    pub enabled_every: usize,
}

/// Makes `OU={name}` with units, users and groups: each user in the group of its unit and in
/// `CN=All {name}` at the top of the domain; names that need care, and values that are no text.
///
/// # Errors
/// The server is gone.
pub async fn fill(carrier: &Carrier, name: &str, shape: Shape) -> Result<Outcome, CarryError> {
    let top = format!("OU={name},{DOMAIN}");
    let units = shape.users.div_ceil(shape.users_a_unit.max(1));
    let unit = |number: usize| format!("OU=Unit {number},{top}");
    let user = |number: usize| {
        let escaped = if number.is_multiple_of(50) { "\\, Zo\u{eb}" } else { "" };
        format!("CN={name} {number}{escaped},{}", unit(number / shape.users_a_unit.max(1)))
    };
    let group = |number: usize| format!("CN={name} G{number},{}", unit(number));
    let all = format!("CN=All {name},{DOMAIN}");
    let mut phases = vec![vec![add(&top, "organizationalUnit", &[])]];
    phases.push((0..units).map(|n| add(&unit(n), "organizationalUnit", &[])).collect());
    let mut objects: Vec<Change> = (0..shape.users).map(|n| person(name, &user(n), n)).collect();
    objects.extend((0..units).map(|n| {
        add(
            &group(n),
            "group",
            &[
                ("sAMAccountName", format!("{name}-g{n}").into_bytes()),
                ("description", format!("unit {n}").into_bytes()),
            ],
        )
    }));
    objects.push(add(&all, "group", &[("sAMAccountName", format!("{name}-all").into_bytes())]));
    phases.push(objects);
    let members = |dn: String, numbers: Vec<usize>| {
        let values = numbers.into_iter().map(|n| user(n).into_bytes()).collect();
        let edit = Edit { attribute: "member".to_owned(), act: Act::Add, values };
        Change::Modify { dn, edits: vec![edit] }
    };
    let numbers: Vec<usize> = (0..shape.users).collect();
    let chunks = numbers.chunks(shape.users_a_unit.max(1)).enumerate();
    phases.push(chunks.map(|(n, numbers)| members(group(n), numbers.to_vec())).collect());
    for numbers in numbers.chunks(500) {
        phases.push(vec![members(all.clone(), numbers.to_vec())]);
    }
    let managed = numbers.iter().skip(1).step_by(10).map(|n| {
        let edits = vec![Edit::replace("manager", &[user(n - 1).into_bytes()])];
        Change::Modify { dn: user(*n), edits }
    });
    phases.push(managed.collect());
    let enabled = numbers.iter().step_by(shape.enabled_every.max(1)).map(|n| {
        let edits = vec![Edit::replace("userAccountControl", &[b"512".to_vec()])];
        Change::Password { dn: user(*n), edits }
    });
    phases.push(enabled.collect());
    let mut outcome = Outcome::default();
    carrier.run(&phases, &mut outcome).await?;
    Ok(outcome)
}

/// Deletes an object with everything below it, children first; how many that were.
///
/// # Errors
/// The server is gone.
pub async fn delete(carrier: &Carrier, dn: &str) -> Result<u64, CarryError> {
    let mut levels: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
    for object in carrier.reader.below(dn, "(!(isDeleted=TRUE))").await? {
        let level = depth(&object.dn);
        levels.entry(level).or_default().push(Change::Delete { dn: object.dn });
    }
    let phases: Vec<Vec<Change>> = levels.into_values().rev().collect();
    let mut outcome = Outcome::default();
    carrier.run(&phases, &mut outcome).await?;
    Ok(outcome.changes)
}

fn person(name: &str, dn: &str, number: usize) -> Change {
    let low = number.to_le_bytes();
    add(
        dn,
        "user",
        &[
            ("sAMAccountName", format!("{name}-{number}").into_bytes()),
            ("userPrincipalName", format!("{name}-{number}@test.lan").into_bytes()),
            ("givenName", format!("Given {number}").into_bytes()),
            ("sn", format!("L\u{e9}vy {number}").into_bytes()),
            ("description", format!("the user number {number} of {name}").into_bytes()),
            ("telephoneNumber", format!("+44 20 {number:07}").into_bytes()),
            ("department", format!("D{}", number % 7).into_bytes()),
            ("jpegPhoto", [&[0xff, 0xd8, 0xff, 0x00], low.as_slice()].concat()),
            ("userAccountControl", b"514".to_vec()),
        ],
    )
}

fn add(dn: &str, class: &str, values: &[(&str, Vec<u8>)]) -> Change {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), vec![value.clone()]));
    let class = ("objectClass".to_owned(), vec![class.as_bytes().to_vec()]);
    Change::Add { dn: dn.to_owned(), attributes: Attributes(values.chain([class]).collect()) }
}
