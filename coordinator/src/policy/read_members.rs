//! The members of a workload that is a cluster: which agents stand beside it, how each reaches
//! its member, and in which order and role they are wanted.

use strongroom_protocol::NodeName;
use strongroom_protocol::control::AppKind;

use crate::policy::read_app;
use crate::policy::sheet::{Section, Sheet};
use crate::policy::{AppSource, Member, Members, Prefer};

/// Where the members stand in the section of their workload, and in which order they are wanted.
pub(super) const KEYS: &[&str] = &["member", "order"];

/// Whether a workload of this kind may have members.
pub(super) fn may_have(kind: Option<AppKind>) -> bool {
    kind == Some(AppKind::Postgres)
}

/// The members of a cluster, and what is said of all of them.
pub(super) fn read(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    kind: AppKind,
) -> Option<(Members, AppSource)> {
    if let Some(word) = sheet.word(section, "agent") {
        let message = format!("{} has members: each has an agent of its own", section.name);
        let hint = "say `agent` of the member, where it is not called as its agent is";
        sheet.wrong(&word.span, message, Some(hint.to_owned()));
        return None;
    }
    if let Some(word) = sheet.word(section, "mode").filter(|word| word.text == "wal") {
        let message = "the log of a cluster comes from one slot of one member".to_owned();
        let hint = "let a workload of its own have mode = \"wal\", without members";
        sheet.wrong(&word.span, message, Some(hint.to_owned()));
        return None;
    }
    let shared = read_app::read_shared(sheet, section, kind)?;
    let mut of = Vec::new();
    let mut whole = true;
    for (word, inner) in sheet.named(section, "member") {
        let known: Vec<&str> =
            std::iter::once("agent").chain(read_app::keys_of_members()).collect();
        sheet.only(&inner, &known);
        let name = sheet.parsed::<NodeName>(&word);
        let agent = match inner.table.get("agent") {
            Some(_) => sheet.value::<NodeName>(&inner, "agent"),
            None => name.clone(),
        };
        let settings = read_app::read_member(sheet, &inner, kind, &shared);
        match (name, agent, settings) {
            (Some(name), Some(agent), Some(settings)) => of.push(Member { name, agent, settings }),
            _ => whole = false,
        }
    }
    if whole && of.is_empty() {
        let message = format!("{} has no members", section.name);
        let hint = format!("such as [{}.member.db1]", section.name);
        sheet.wrong(&section.span, message, Some(hint));
        return None;
    }
    whole &= put_in_order(sheet, section, &mut of);
    let source = AppSource { kind, settings: shared };
    let prefer = match source.says("prefer") {
        Some("primary") => Prefer::Primary,
        Some("prefer-standby") => Prefer::PreferStandby,
        Some("standby-only") => Prefer::StandbyOnly,
        _ => Prefer::Any,
    };
    let lag_seconds_max = source.says("max_lag").and_then(|seconds| seconds.parse().ok());
    whole.then_some((Members { prefer, lag_seconds_max, of }, source))
}

/// Those that `order` names come first; the rest follow by name.
fn put_in_order(sheet: &mut Sheet<'_>, section: &Section<'_>, of: &mut [Member]) -> bool {
    let mut ranks: Vec<&str> = Vec::new();
    let mut sound = true;
    for word in sheet.words(section, "order") {
        let known = of.iter().any(|member| member.name.as_str() == word.text);
        if !known || ranks.contains(&word.text) {
            let what = if known { "twice" } else { "no member" };
            sheet.wrong(&word.span, format!("`order` names {what}: {}", word.text), None);
            sound = false;
        }
        ranks.push(word.text);
    }
    let rank = |member: &Member| {
        ranks.iter().position(|name| *name == member.name.as_str()).unwrap_or(ranks.len())
    };
    of.sort_by_key(|member| (rank(member), member.name.clone()));
    sound
}
