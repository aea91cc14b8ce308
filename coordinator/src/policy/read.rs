//! From TOML to [`Declared`]: the document and its policies.

use std::collections::BTreeMap;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use strongroom_protocol::{CopyName, PolicyName};
use toml::de::DeTable;

use crate::policy::problem::nearest;
use crate::policy::reach;
use crate::policy::read_copy::{read_copies, read_keep, read_prove};
use crate::policy::read_workload::read_workloads;
use crate::policy::sheet::{Section, Sheet, Word};
use crate::policy::{Copy, Declared, GRACE_SECONDS_DEFAULT, Parsed, Policy, Problems, Seconds};
use crate::retention::{Consistency, Keep};
use crate::schedule::{Cadence, CadenceError};

/// Largest policy file: thousands of workloads, and no way to exhaust memory by sending one.
const FILE_BYTES_MAX: usize = 4 << 20;

const SCHEDULE_WORDS: &[&str] = &[
    "every",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "first",
    "second",
    "third",
    "fourth",
    "last",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// Reads a policy file; `file` is its name for messages.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Problems> {
    read(file, text, |_, _, _| {})
}

/// Reads one that is to be put in force: what can never be met is wrong too. One that is in force
/// already stays so, and owes it.
pub fn parse_to_apply(file: &str, text: &str) -> Result<Parsed, Problems> {
    read(file, text, reach::check)
}

fn read(
    file: &str,
    text: &str,
    check: impl FnOnce(&mut Sheet<'_>, &Section<'_>, &Declared),
) -> Result<Parsed, Problems> {
    let mut sheet = Sheet::new(file, text);
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes; at most {FILE_BYTES_MAX}", text.len());
        sheet.wrong(&(0..0), message, None);
        return Err(Problems(sheet.problems));
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        sheet.wrong(&error.span().unwrap_or(0..0), error.message().to_owned(), None);
    }
    let root = Section { name: String::new(), span: 0..0, table: document.get_ref() };
    let named = Section { name: "the policy file".to_owned(), ..root.clone() };
    sheet.only(&named, &["policy", "workload"]);
    let mut declared = Declared::default();
    let mut policy_words: Vec<Word<'_>> = Vec::new();
    for (word, section) in sheet.named(&root, "policy") {
        if let Some(policy) = read_policy(&mut sheet, &word, &section) {
            declared.policies.insert(policy.name.clone(), policy);
        }
        policy_words.push(word);
    }
    let known: Vec<&str> = policy_words.iter().map(|word| word.text).collect();
    declared.workloads = read_workloads(&mut sheet, &root, &known);
    for word in &policy_words {
        if !declared.workloads.values().any(|w| w.policy.as_str() == word.text) {
            sheet.warn(&word.span, format!("no workload uses the policy {}", word.text));
        }
    }
    if sheet.problems.is_empty() {
        check(&mut sheet, &root, &declared);
    }
    if sheet.problems.is_empty() {
        return Ok(Parsed { declared, warnings: sheet.warnings });
    }
    sheet.problems.sort_by_key(|problem| (problem.line, problem.column));
    sheet.problems.dedup();
    Err(Problems(sheet.problems))
}

const POLICY_KEYS: &[&str] = &["schedule", "timezone", "require", "grace", "primary", "copy"];

/// Reads all of it before it gives up, so that one reading names every mistake.
fn read_policy(sheet: &mut Sheet<'_>, word: &Word<'_>, section: &Section<'_>) -> Option<Policy> {
    sheet.only(section, POLICY_KEYS);
    let name: Option<PolicyName> = sheet.parsed(word);
    let schedule = read_schedule(sheet, section);
    let timezone = read_timezone(sheet, section);
    let words: Vec<(&str, Consistency)> =
        Consistency::ALL.iter().map(|value| (value.as_str(), *value)).collect();
    let require = sheet.choice(section, "require", &words);
    let grace = sheet.value::<Seconds>(section, "grace");
    let primary = read_primary(sheet, section);
    let primary_prove = sheet.section(section, "primary").and_then(|of| read_prove(sheet, &of));
    let copies: BTreeMap<CopyName, Copy> = read_copies(sheet, section);
    Some(Policy {
        name: name?,
        schedule,
        timezone: timezone?,
        require: require.unwrap_or(Consistency::Crash),
        grace_seconds: grace.map_or(GRACE_SECONDS_DEFAULT, |Seconds(seconds)| seconds),
        primary: primary?,
        primary_prove,
        copies,
    })
}

fn read_schedule(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Vec<Cadence> {
    if section.table.get("schedule").is_none() {
        let message = format!("{} has no `schedule`: points are made only by hand", section.name);
        sheet.warn(&section.span, message);
    }
    read_cadences(sheet, section)
}

/// The cadences under `schedule`.
pub(super) fn read_cadences(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Vec<Cadence> {
    let mut schedule = Vec::new();
    for word in sheet.words(section, "schedule") {
        match word.text.parse::<Cadence>() {
            Ok(cadence) => schedule.push(cadence),
            Err(error) => {
                let offending = match &error {
                    CadenceError::Shape { text } => text.split_whitespace().next(),
                    other => Some(other.word()),
                };
                let hint = nearest(offending.unwrap_or(""), SCHEDULE_WORDS.iter().copied());
                sheet.wrong(&word.span, format!("{error}"), hint);
            }
        }
    }
    schedule
}

fn read_timezone(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<TimeZone> {
    if section.table.get("timezone").is_none() {
        sheet.missing(section, "timezone", "timezone = \"Europe/London\" or \"UTC\"");
    }
    let word = sheet.word(section, "timezone")?;
    if let Ok(timezone) = TimeZone::get(word.text) {
        return Some(timezone);
    }
    let database: &TimeZoneDatabase = jiff::tz::db();
    let known: Vec<String> = database.available().map(|name| name.as_str().to_owned()).collect();
    let hint = nearest(word.text, known.iter().map(String::as_str));
    sheet.wrong(&word.span, format!("{:?} is not a time zone", word.text), hint);
    None
}

fn read_primary(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<Keep> {
    let Some(primary) = sheet.section(section, "primary") else {
        if section.table.get("primary").is_none() {
            sheet.missing(section, "primary", "primary.keep = { newest = 10, days = 14 }");
        }
        return None;
    };
    sheet.only(&primary, &["keep", "prove"]);
    read_keep(sheet, &primary)
}
