//! Copies of a policy: their keep rules, windows and throttles, and the graph they form.

use std::collections::BTreeMap;

use strongroom_protocol::{CopyName, MediaSetName, NodeName};

use crate::policy::problem::nearest;
use crate::policy::read_drill::read_rule;
use crate::policy::sheet::{Section, Sheet, Word};
use crate::policy::{Copy, CopyKind, PRIMARY, Prove, Seconds};
use crate::retention::{AfterEvent, Keep, Label, Period, ProofLevel};
use crate::schedule::{Days, Throttle, Window, parse_clock_minutes};

/// Counts and ages above these keep everything anyone will ever have.
const KEEP_COUNT_SANE_MAX: u32 = 100_000;
const KEEP_SECONDS_SANE_MAX: u64 = 100 * 366 * 86_400;

/// Proofs more often than this would be all that is done.
const PROVE_SECONDS_MIN: u64 = 3600;

const COPY_KEYS: &[&str] = &[
    "kind",
    "from",
    "node",
    "keep",
    "min_proof",
    "prove",
    "drill",
    "throttle",
    "window",
    "defer",
    "every",
    "media_set",
];

/// A copy whose node may still have to be taken from its source.
struct Draft<'t> {
    word: Word<'t>,
    section: Section<'t>,
    from: Option<Word<'t>>,
}

/// Every copy of a policy, once the graph holds together.
pub(super) fn read_copies(sheet: &mut Sheet<'_>, policy: &Section<'_>) -> BTreeMap<CopyName, Copy> {
    let mut drafts = Vec::new();
    for (word, section) in sheet.named(policy, "copy") {
        sheet.only(&section, COPY_KEYS);
        if word.text == PRIMARY {
            let message = format!("{} cannot be a copy: it is the primary snap", word.text);
            sheet.wrong(&word.span, message, None);
        }
        if section.table.get("from").is_none() {
            sheet.missing(&section, "from", "from = \"primary\"");
        }
        let from = sheet.word(&section, "from");
        drafts.push(Draft { word, section, from });
    }
    let sound = check_graph(sheet, &drafts);
    let mut copies = BTreeMap::new();
    for draft in &drafts {
        let node = if sound { node_of(sheet, &drafts, draft) } else { None };
        if let Some(copy) = read_copy(sheet, draft, node) {
            copies.insert(copy.name.clone(), copy);
        }
    }
    copies
}

/// Reports unknown sources and circles.
fn check_graph(sheet: &mut Sheet<'_>, drafts: &[Draft<'_>]) -> bool {
    let before = sheet.problems.len();
    let source = |name: &str| -> Option<&str> {
        let draft = drafts.iter().find(|draft| draft.word.text == name)?;
        draft.from.as_ref().map(|from| from.text)
    };
    for draft in drafts {
        let Some(from) = &draft.from else { continue };
        let known = drafts.iter().map(|d| d.word.text).chain([PRIMARY]);
        if !known.clone().any(|name| name == from.text) {
            let others = known.filter(|name| *name != draft.word.text);
            let hint = nearest(from.text, others);
            let message = format!("`from` of {} names no copy: {}", draft.word.text, from.text);
            sheet.wrong(&from.span, message, hint);
            continue;
        }
        let mut path = vec![draft.word.text];
        let mut next = Some(from.text);
        while let Some(name) = next.filter(|name| *name != PRIMARY && !path.contains(name)) {
            path.push(name);
            next = source(name);
        }
        if next == Some(draft.word.text) {
            path.push(draft.word.text);
            let message = format!("copies go round in a circle: {}", path.join(" <- "));
            sheet.wrong(&from.span, message, Some("one must come from primary".to_owned()));
        }
    }
    before == sheet.problems.len()
}

/// The node of a copy: its own, or, for an aux copy, the one that holds its source.
fn node_of(sheet: &mut Sheet<'_>, drafts: &[Draft<'_>], of: &Draft<'_>) -> Option<NodeName> {
    let mut draft = of;
    loop {
        if draft.section.table.contains_key("node") {
            return sheet.value(&draft.section, "node");
        }
        let from = draft.from.as_ref()?.text;
        match drafts.iter().find(|other| other.word.text == from) {
            Some(source) => draft = source,
            None => {
                sheet.missing(&of.section, "node", "node = \"dr1\", the proxy that holds it");
                return None;
            }
        }
    }
}

fn read_copy(sheet: &mut Sheet<'_>, draft: &Draft<'_>, node: Option<NodeName>) -> Option<Copy> {
    let section = &draft.section;
    let name = sheet.parsed(&draft.word);
    let kind = read_kind(sheet, section);
    let keep = read_keep(sheet, section);
    let from = draft.from.as_ref().and_then(|from| sheet.parsed(from));
    let proofs: Vec<(&str, ProofLevel)> =
        ProofLevel::ALL.iter().map(|level| (level.as_str(), *level)).collect();
    let min_proof = sheet.choice(section, "min_proof", &proofs);
    let prove = read_prove(sheet, section);
    let drill = read_rule(sheet, section, kind.as_ref());
    let defer = sheet.value::<Seconds>(section, "defer");
    let periods: Vec<(&str, Period)> =
        Period::ALL.iter().map(|period| (period.as_str(), *period)).collect();
    let every = sheet.choice(section, "every", &periods);
    let throttle = read_throttles(sheet, section);
    let window = read_windows(sheet, section);
    Some(Copy {
        name: name?,
        kind: kind?,
        from: from?,
        node: node?,
        keep: keep?,
        min_proof: min_proof.unwrap_or(ProofLevel::Written),
        prove,
        drill,
        throttle,
        window,
        defer_seconds: defer.map_or(0, |Seconds(seconds)| seconds),
        every,
    })
}

fn read_kind(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<CopyKind> {
    if section.table.get("kind").is_none() {
        sheet.missing(section, "kind", "kind = \"secondary-snap\" or \"aux\"");
    }
    let word = sheet.word(section, "kind")?;
    let has_set = section.table.contains_key("media_set");
    match word.text {
        "aux" => {
            if !has_set {
                sheet.missing(section, "media_set", "media_set = \"weekly\"");
            }
            let media_set: MediaSetName = sheet.value(section, "media_set")?;
            Some(CopyKind::Aux { media_set })
        }
        "secondary-snap" => {
            if has_set {
                let message = format!("{} is no aux copy: it has no media set", section.name);
                sheet.wrong(&section.span, message, None);
            }
            Some(CopyKind::SecondarySnap)
        }
        "cloud" | "cloud-copy" => {
            let message = "cloud copies are not there yet: nothing would be copied".to_owned();
            sheet.wrong(&word.span, message, Some("use secondary-snap or aux".to_owned()));
            None
        }
        other => {
            let message = format!("{other:?} is no kind of copy: secondary-snap or aux");
            let hint = nearest(other, ["secondary-snap", "aux"]);
            sheet.wrong(&word.span, message, hint);
            None
        }
    }
}

/// The `prove` of the primary snap or of a copy.
pub(super) fn read_prove(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<Prove> {
    let rule = sheet.section(section, "prove")?;
    sheet.only(&rule, &["level", "every"]);
    for key in ["level", "every"] {
        if rule.table.get(key).is_none() {
            sheet.missing(&rule, key, "prove = { level = \"started\", every = \"30d\" }");
        }
    }
    // That it was written is known when it arrives, and is never proven again.
    let levels = ProofLevel::ALL.iter().filter(|level| **level > ProofLevel::Written);
    let levels: Vec<(&str, ProofLevel)> = levels.map(|level| (level.as_str(), *level)).collect();
    let level = sheet.choice(&rule, "level", &levels);
    let every = sheet.value::<Seconds>(&rule, "every");
    if every.is_some_and(|Seconds(seconds)| seconds < PROVE_SECONDS_MIN) {
        let message =
            format!("`every` in {} is at least {}", rule.name, Seconds(PROVE_SECONDS_MIN));
        sheet.wrong(&rule.span, message, None);
    }
    Some(Prove { level: level?, every_seconds: every?.0 })
}

/// The `keep` of the primary snap or of a copy.
pub(super) fn read_keep(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<Keep> {
    if section.table.get("keep").is_none() {
        sheet.missing(section, "keep", "keep = { newest = 10, days = 14, min_age = \"7d\" }");
    }
    let rules = sheet.section(section, "keep")?;
    let plurals = Period::ALL.iter().map(|period| period.plural());
    let known: Vec<&str> = ["newest", "min_age", "after"].into_iter().chain(plurals).collect();
    sheet.only(&rules, &known);
    let mut gfs = BTreeMap::new();
    for period in Period::ALL {
        if let Some(count) = sheet.number(&rules, period.plural()) {
            gfs.insert(*period, count);
        }
    }
    let mut after = Vec::new();
    for rule in sheet.sections(&rules, "after") {
        sheet.only(&rule, &["event", "keep"]);
        let event = sheet.value::<Label>(&rule, "event");
        let keep = sheet.value::<Seconds>(&rule, "keep");
        match (event, keep) {
            (Some(event), Some(Seconds(keep_seconds))) => {
                after.push(AfterEvent { event, keep_seconds });
            }
            _ => {
                sheet.missing(&rule, "event or keep", "{ event = \"contract-42\", keep = \"7y\" }")
            }
        }
    }
    let newest = sheet.number(&rules, "newest").unwrap_or(0);
    let min_age_seconds = sheet.value::<Seconds>(&rules, "min_age").map(|Seconds(s)| s);
    let keep = Keep { newest, gfs, min_age_seconds, after };
    if keep.is_empty() {
        let message = format!("{} keeps nothing but the newest point", rules.name);
        sheet.warn(&rules.span, message);
    }
    let counts = keep.gfs.values().chain([&keep.newest]);
    let endless = counts.max().is_some_and(|count| *count > KEEP_COUNT_SANE_MAX);
    if endless || keep.min_age_seconds.is_some_and(|age| age > KEEP_SECONDS_SANE_MAX) {
        let message = format!("{} keeps everything: nothing ever expires", rules.name);
        sheet.warn(&rules.span, message);
    }
    Some(keep)
}

fn read_windows(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Vec<Window> {
    let sections = sheet.sections(section, "window");
    let read = sections.iter().filter_map(|section| {
        sheet.only(section, &["days", "from", "to"]);
        read_window(sheet, section)
    });
    read.collect()
}

fn read_throttles(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Vec<Throttle> {
    let sections = sheet.sections(section, "throttle");
    let read = sections.iter().filter_map(|section| {
        sheet.only(section, &["days", "from", "to", "mbit"]);
        let window = read_window(sheet, section);
        let mbit = sheet.number(section, "mbit").filter(|mbit| *mbit > 0);
        if mbit.is_none() {
            sheet.missing(section, "mbit", "mbit = 200; to stop a copy at times, use `window`");
        }
        Some(Throttle { window: window?, bits_per_second: u64::from(mbit?) * 1_000_000 })
    });
    read.collect()
}

fn read_window(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<Window> {
    let days = if section.table.contains_key("days") {
        sheet.value(section, "days")
    } else {
        Some(Days::EVERY)
    };
    let mut clock = |key: &str, minutes_max: u16| {
        if section.table.get(key).is_none() {
            sheet.missing(section, key, "from = \"08:00\", to = \"18:00\"");
        }
        let word = sheet.word(section, key)?;
        let minutes = parse_clock_minutes(word.text).filter(|minutes| *minutes <= minutes_max);
        if minutes.is_none() {
            sheet.wrong(&word.span, format!("{:?} is not a time of day", word.text), None);
        }
        minutes
    };
    let from = clock("from", 24 * 60 - 1);
    let to = clock("to", 24 * 60);
    let (from_minutes, to_minutes) = (from?, to?);
    if from_minutes == to_minutes {
        let message = "a window that begins and ends at the same time is empty".to_owned();
        sheet.wrong(&section.span, message, Some("a whole day is 00:00 to 24:00".to_owned()));
        return None;
    }
    Some(Window { days: days?, from_minutes, to_minutes })
}
