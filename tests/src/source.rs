//! The checkout as text, for the tests that keep the house rules. Knows just enough Rust to tell
//! code from comments and literals, to find functions, and to find what only tests compile.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is never looked at: what git ignores, and git itself.
const SKIPPED: &[&str] =
    &["target", ".git", "tests/fuzz/target", "tests/fuzz/artifacts", "tests/fuzz/Cargo.lock"];
/// Longer files are data, not text, in bytes.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// One text file of the checkout.
pub struct Text {
    /// Relative to the top, with `/`.
    pub path: String,
    pub text: String,
}

/// The top of the checkout: the folder above this package.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Every text file of the checkout, sorted by path.
pub fn texts() -> std::io::Result<Vec<Text>> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if SKIPPED.contains(&name.as_str()) || name.ends_with(".swp") {
                continue;
            } else if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && entry.metadata()?.len() <= TEXT_BYTES_MAX {
                // Bytes that are not UTF-8 are data.
                found.extend(
                    std::fs::read_to_string(&path).ok().map(|text| Text { path: name, text }),
                );
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A Rust file with its comments and literals blanked, line for line.
pub struct Rust<'a> {
    pub path: &'a str,
    pub text: &'a str,
    pub code: String,
    tests: Vec<Range<usize>>,
}

/// A function's name and the lines from its `fn` to its closing brace.
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl<'a> Rust<'a> {
    /// Reads a file of [`texts`]; `None` when it is not Rust.
    pub fn read(file: &'a Text) -> Option<Self> {
        let path = file.path.as_str();
        let code = path.ends_with(".rs").then(|| blank(&file.text))?;
        let tests = test_ranges(&code, path);
        Some(Self { path, text: &file.text, code, tests })
    }

    /// Numbered lines of code, without comments and literals.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Whether only tests compile the line.
    pub fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&line))
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let words = words(&self.code);
        let mut found = Vec::new();
        for pair in words.windows(2) {
            let [fn_word, name] = pair else { continue };
            let between = &self.code[fn_word.end..name.start];
            if &self.code[fn_word.clone()] != "fn" || !between.trim().is_empty() {
                continue;
            }
            let Some(body) = body_after(&self.code, name.end) else { continue };
            let line = line_at(&self.code, fn_word.start);
            found.push(Function {
                name: self.code[name.clone()].to_owned(),
                line,
                lines: line_at(&self.code, body.end - 1) - line + 1,
            });
        }
        found
    }
}

/// Whether `line` has `word` between characters that are not part of a name.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn words(code: &str) -> Vec<Range<usize>> {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| part(**byte)).count();
        if length > 0 {
            found.push(at..at + length);
        }
        at += length.max(1);
    }
    found
}

fn line_at(code: &str, at: usize) -> usize {
    code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The braces of the body that follows a signature; `None` for a declaration or a type.
fn body_after(code: &str, at: usize) -> Option<Range<usize>> {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' if depth == 0 => return None,
            b')' | b']' => depth -= 1,
            b';' | b'}' if depth == 0 => return None,
            b'{' if depth == 0 => return closing(code, offset).map(|end| offset..end),
            _ => {}
        }
    }
    None
}

/// One past the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(offset + 1),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn test_ranges(code: &str, path: &str) -> Vec<Range<usize>> {
    let in_tests = path.starts_with("tests/") || path.contains("/tests/");
    if in_tests || path.contains("/benches/") || is_test_module(path) {
        return std::iter::once(0..usize::MAX).collect();
    }
    let mut found = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let Some(body) = body_after(code, at + "#[cfg(test)]".len()) else { continue };
        found.push(line_at(code, at)..line_at(code, body.end - 1) + 1);
    }
    found
}

/// Unit tests in a file of their own, named so: `tests.rs` or `x_tests.rs`.
pub fn is_test_module(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Replaces comments and the insides of literals by blanks; lines stay where they are.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = skipped_at(&bytes[at..], out.last().copied());
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(bytes.len());
        out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of the comment or literal that starts here; zero when code does.
fn skipped_at(rest: &[u8], before: Option<u8>) -> usize {
    let in_name = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => until(rest, b"\n"),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => string(rest, 1),
        [b'r', b'"' | b'#', ..] if !in_name => raw_string(rest, 1),
        [b'b', b'r', b'"' | b'#', ..] if !in_name => raw_string(rest, 2),
        [b'b', b'\'', ..] if !in_name => 1 + character(&rest[1..]),
        [b'\'', ..] => character(rest),
        _ => 0,
    }
}

fn until(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len()).position(|window| window == end).unwrap_or(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[u8], mut at: usize) -> usize {
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return 0;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    open + 1 + until(&rest[open + 1..], &end) + end.len()
}

/// A character literal, told from a lifetime by its closing quote.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return 3 + until(rest.get(3..).unwrap_or_default(), b"'") + 1;
    }
    let width = rest.iter().skip(2).take_while(|byte| **byte & 0xc0 == 0x80).count();
    if rest.get(2 + width) == Some(&b'\'') { 3 + width } else { 0 }
}
