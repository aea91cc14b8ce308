//! The house rules that can be checked by reading (`docs/style.md`). Every test names all its
//! violations at once, as `file:line: what`. An exception is a line in a table here, with its
//! reason; an exception nothing needs any more is a violation too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use strongroom_tests::source::{Rust, Text, has_word, is_test_module, texts};

/// A file is read in one go.
const FILE_LINES_MAX: usize = 400;
/// A function is seen on one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Two files fit side by side.
const COLUMNS_MAX: usize = 100;

/// Which of our crates each may depend on. `tests`, `xtask` and `cli` see everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("certs", &["protocol"]),
    ("images", &[]),
    ("store", &["protocol"]),
    ("node", &["protocol", "certs", "store"]),
    ("agent", &["protocol", "certs", "store", "node"]),
    ("coordinator", &["protocol", "certs", "store", "node"]),
    ("proxy", &["protocol", "certs", "store", "node"]),
    ("present", &["protocol", "certs", "images", "store"]),
];

/// The only folders that know QUIC.
const QUINN: &[&str] =
    &["protocol/src/link.rs", "protocol/src/link/", "protocol/benches/wire/", "tests/"];

/// The only file that reads the wall clock.
const WALL_CLOCK: &str = "protocol/src/time.rs";

/// Files with `unsafe`, and why nothing else will do.
const UNSAFE: &[(&str, &str)] = &[
    ("agent/src/workload/btrfs.rs", "ioctls of btrfs: snapshots"),
    ("agent/src/workload/files/project.rs", "ioctls of inodes: project ids"),
    ("node/src/memory.rs", "three settings of the allocator"),
    ("store/src/cut/simd.rs", "vector instructions chosen at run time"),
    ("store/src/tape/scsi/sg.rs", "the ioctl of SCSI commands"),
];

/// Files that may spawn tasks nobody joins by name, and why.
const SPAWN: &[(&str, &str)] = &[
    ("agent/src/orders.rs", "watches for a cancel, and is aborted with its guard"),
    ("agent/src/pipeline.rs", "its handle is kept by the driver that is returned"),
    ("coordinator/src/foreman.rs", "ticks until it is told to stop, and holds nothing"),
    ("node/src/desk.rs", "its handle is kept among the live jobs"),
    ("node/src/reader/stream.rs", "two tasks that end with their stream"),
    ("node/src/run.rs", "waits for a signal as long as the process lives"),
    ("node/src/uplink.rs", "its handle is returned to whoever starts it"),
];

fn checkout() -> Vec<Text> {
    texts().unwrap()
}

fn rust(files: &[Text]) -> Vec<Rust<'_>> {
    let found: Vec<_> = files.iter().filter_map(Rust::read).collect();
    assert!(found.len() > 20, "only {} Rust files found: looking in the wrong place", found.len());
    found
}

fn none(rule: &str, violations: &[String]) {
    let list = violations.join("\n  ");
    assert!(violations.is_empty(), "{rule}: {} violations\n  {list}", violations.len());
}

/// Every line of code, without comments and literals, that `wrong` finds fault with.
fn code_lines(files: &[Rust<'_>], wrong: impl Fn(&Rust<'_>, usize, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.lines().filter(|(number, line)| wrong(file, *number, line)) {
            found.push(format!("{}:{number}: {}", file.path, line.trim()));
        }
    }
    found
}

/// Lines of files outside `allowed` that `wrong`, and entries of `allowed` that need none.
fn outside(
    files: &[Rust<'_>],
    allowed: &[(&str, &str)],
    wrong: impl Fn(&Rust<'_>, usize, &str) -> bool,
) -> Vec<String> {
    let mut found = code_lines(files, &wrong);
    let hits: BTreeSet<&str> = found.iter().filter_map(|hit| hit.split(':').next()).collect();
    let stale: Vec<String> = allowed
        .iter()
        .filter(|(path, _)| !hits.contains(path))
        .map(|(path, _)| format!("{path}:1: listed as an exception and needs none"))
        .collect();
    found.retain(|hit| !allowed.iter().any(|(path, _)| hit.starts_with(&format!("{path}:"))));
    found.extend(stale);
    found
}

#[test]
fn files_are_short_and_say_what_they_promise() {
    let files = checkout();
    let mut found = Vec::new();
    for file in rust(&files) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}:{lines}: {lines} lines, {FILE_LINES_MAX} at most", file.path));
        }
        if !file.text.starts_with("//! ") {
            found.push(format!("{}:1: does not start with `//! `", file.path));
        }
    }
    none("files", &found);
}

#[test]
fn functions_are_short() {
    let files = checkout();
    let mut found = Vec::new();
    let mut seen = 0;
    for file in rust(&files) {
        for function in file.functions() {
            seen += 1;
            if function.lines > FUNCTION_LINES_MAX {
                let (name, lines) = (&function.name, function.lines);
                found.push(format!("{}:{}: {name} has {lines} lines", file.path, function.line));
            }
        }
    }
    assert!(seen > 100, "only {seen} functions found: the reader is broken");
    none("functions", &found);
}

#[test]
fn lines_fit() {
    let files = checkout();
    let mut found = Vec::new();
    for file in rust(&files) {
        for (index, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                found.push(format!("{}:{}: {columns} columns", file.path, index + 1));
            }
        }
    }
    none("columns", &found);
}

#[test]
fn crates_point_down_only() {
    let files = checkout();
    let known: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut found = Vec::new();
    let mut manifests = 0;
    for file in &files {
        let Some(owner) = file.path.strip_suffix("/Cargo.toml") else { continue };
        let Some(allowed) = known.get(owner) else { continue };
        manifests += 1;
        for dependency in dependencies(&file.text) {
            let ours = dependency.strip_prefix("strongroom-");
            if ours.is_some_and(|name| !allowed.contains(&name)) {
                found.push(format!("{}:1: depends on {dependency}", file.path));
            }
            if dependency == "quinn" && owner != "protocol" {
                found.push(format!("{}:1: depends on quinn", file.path));
            }
        }
    }
    assert_eq!(manifests, ARROWS.len(), "a crate of the table has no Cargo.toml");
    none("crate arrows", &found);
}

/// Names in every dependency table of a manifest, also those for one platform.
fn dependencies(manifest: &str) -> Vec<String> {
    let parsed: toml::Table = manifest.parse().unwrap();
    let mut tables = vec![parsed.clone()];
    if let Some(targets) = parsed.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(|target| target.as_table().cloned()));
    }
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let mut found = Vec::new();
    for section in tables.iter().flat_map(|table| sections.map(|name| table.get(name))).flatten() {
        let Some(section) = section.as_table() else { continue };
        for (name, value) in section {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            found.push(renamed.unwrap_or(name).to_owned());
        }
    }
    found
}

#[test]
fn every_crate_is_in_the_table() {
    let files = checkout();
    let top = files.iter().find(|file| file.path == "Cargo.toml").unwrap();
    let parsed: toml::Table = top.text.parse().unwrap();
    let members = parsed["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    let mut known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    known.extend(["cli", "tests", "xtask"]);
    assert_eq!(members, known, "workspace members against the table of arrows");
}

#[test]
fn only_the_link_knows_quic() {
    let files = checkout();
    let found = code_lines(&rust(&files), |file, _, line| {
        has_word(line, "quinn") && !QUINN.iter().any(|prefix| file.path.starts_with(prefix))
    });
    none("quinn", &found);
}

#[test]
fn only_the_clock_reads_the_wall_clock() {
    let files = checkout();
    let found = code_lines(&rust(&files), |file, _, line| {
        let reads = ["SystemTime::now", "Timestamp::now(", "Zoned::now("];
        file.path != WALL_CLOCK && reads.iter().any(|call| line.contains(call))
    });
    none("wall clock", &found);
}

#[test]
fn imports_are_named() {
    let files = checkout();
    let found = code_lines(&rust(&files), |file, number, line| {
        let all = line.contains("use super::*") || line.contains("use crate::*");
        all && !file.is_test(number)
    });
    none("imports of everything", &found);
}

#[test]
fn nothing_is_left_over() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("dbg", "!"),
        concat!("todo", "!"),
        concat!("unimpl", "emented!"),
        concat!("#[ign", "ore"),
    ];
    let mut found = Vec::new();
    for file in &checkout() {
        let kinds = [".rs", ".toml", ".sh", ".sql", ".yml", ".html"];
        if !kinds.iter().any(|kind| file.path.ends_with(kind)) {
            continue;
        }
        for (index, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| left_over(line, word)) {
                found.push(format!("{}:{}: {word}", file.path, index + 1));
            }
        }
    }
    none("left over", &found);
}

fn left_over(line: &str, word: &str) -> bool {
    let bare = word.trim_start_matches('#').trim_start_matches('[').trim_end_matches('!');
    line.contains(word) && has_word(line, bare)
}

#[test]
fn unsafe_code_is_listed() {
    let files = checkout();
    let found = outside(&rust(&files), UNSAFE, |_, _, line| has_word(line, "unsafe"));
    none("unsafe", &found);
}

#[test]
fn tasks_are_owned() {
    let files = checkout();
    let found = outside(&rust(&files), SPAWN, |file, number, line| {
        let bare = ["tokio::spawn", "tokio::task::spawn"].iter().any(|path| has_word(line, path));
        bare && !file.is_test(number)
    });
    none("tasks nobody owns", &found);
}

#[test]
fn every_module_is_on_the_map() {
    let files = checkout();
    let map = files.iter().find(|file| file.path == "ARCHITECTURE.md");
    let map = map.map(|file| file.text.as_str()).unwrap_or_default();
    let found: Vec<String> = rust(&files)
        .iter()
        .filter_map(|file| file.path.split_once("/src/").map(|(_, module)| (file.path, module)))
        .filter(|(_, module)| !matches!(*module, "lib.rs" | "main.rs"))
        .filter(|(path, _)| !is_test_module(path))
        .filter(|(path, module)| !map.contains(path) && !has_word(map, module))
        .map(|(path, _)| format!("{path}:1: not named in ARCHITECTURE.md"))
        .collect();
    none("code map", &found);
}

#[test]
fn pages_have_one_title() {
    let mut found = Vec::new();
    for file in checkout().iter().filter(|file| file.path.ends_with(".md")) {
        let mut fenced = false;
        let mut titles = 0;
        for line in file.text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            titles += usize::from(!fenced && line.starts_with("# "));
        }
        if titles != 1 {
            found.push(format!("{}:1: {titles} titles", file.path));
        }
    }
    none("titles", &found);
}

#[test]
fn no_machine_is_named() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let hosts =
        [concat!("sparse+", "http"), concat!("arti", "factory"), concat!("static.cra", "tes")];
    let mut found = Vec::new();
    for file in &checkout() {
        for (index, line) in file.text.lines().enumerate() {
            let path = paths.iter().find(|path| starts_a_path(line, path));
            for word in path.into_iter().chain(hosts.iter().filter(|host| line.contains(**host))) {
                found.push(format!("{}:{}: names {word}", file.path, index + 1));
            }
        }
    }
    none("machines", &found);
}

/// Whether `path` stands in `line` as the beginning of an absolute path.
fn starts_a_path(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "._-*}>)".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

/// The rules hold only as far as the reader sees: comments, literals, lifetimes, raw strings.
#[test]
fn the_reader_tells_code_from_text() {
    let lines = [
        "//! x",
        "fn a<'a>(x: &'a str) -> char { // fn no() {",
        "  let _ = r#\"fn \"q\" {\"#;",
        "  '\\''",
        "}",
        "/* fn c() { /* } */ */ trait T { fn d(&self); fn e(&self) where u8: Copy {} }",
        "#[cfg(test)]",
        "mod tests {",
        "  use super::*;",
        "  fn f() { let b = b'{'; let g: fn(u8) -> u8 = |x| x; }",
        "}",
    ];
    let file = Text { path: "x/src/y.rs".to_owned(), text: lines.join("\n") };
    let file = Rust::read(&file).unwrap();
    let functions: Vec<_> =
        file.functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    let wanted = [("a", 2, 4), ("e", 6, 1), ("f", 10, 1)];
    assert_eq!(functions, wanted.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    assert!(file.is_test(9) && !file.is_test(2));
    assert!(!file.code.contains("no()") && !file.code.contains('q'));
}
