//! A process that takes the lead, hands it over and follows, again and again, is killed: what it
//! comes up with is the step that was answered last, or the next one whole.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use strongroom_protocol::Term;

use super::*;

/// The directory of a child that is to be killed.
const KILLED: &str = "STRONGROOM_KILLED_IN";

fn lead(term: u64, site: &str) -> Lead {
    Lead { term: Term(term), ..Lead::first(site.parse().unwrap()) }
}

fn open(dir: &Path) -> LeadBook {
    LeadBook::open(&Home::open(dir).unwrap()).unwrap()
}

/// The steps are counted from the first: takes the lead in term 2, hands over to 3, follows in 3,
/// takes the lead in 4, and so on.
fn step_of(book: &LeadBook) -> u64 {
    let term = book.lead().term.0;
    match book.standing() {
        Standing::Leads => (term - 2) / 2 * 3 + 1,
        Standing::HandsOver(next) => {
            assert_eq!(next, lead(term + 1, "a"));
            (term - 2) / 2 * 3 + 2
        }
        Standing::Follows => (term - 1) / 2 * 3,
    }
}

fn take_next_step(book: &LeadBook) {
    let term = book.lead().term.0;
    match book.standing() {
        Standing::Follows => book.take(lead(term + 1, "b")).unwrap(),
        Standing::Leads => book.hand_over(lead(term + 1, "a")).unwrap(),
        Standing::HandsOver(next) => assert_eq!(book.hear(&next).unwrap(), Heard::Newer),
    }
}

/// Each step is told after it is done, as an operator is answered.
fn step_without_end(dir: &Path) {
    let book = open(dir);
    let mut told = OpenOptions::new().create(true).append(true).open(dir.join("told")).unwrap();
    loop {
        take_next_step(&book);
        told.write_all(format!("{}\n", step_of(&book)).as_bytes()).unwrap();
    }
}

#[test]
fn killed_inside_any_step_of_a_takeover_it_comes_up_before_it_or_after_it() {
    if let Some(dir) = std::env::var_os(KILLED) {
        step_without_end(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = "org = \"acme\"\nsite = \"b\"\nrole = \"proxy\"\nname = \"dr\"\n\
                coordinator_site = \"a\"\n";
    fs::write(dir.path().join(crate::home::SETTINGS_FILE), text).unwrap();
    let mut reached = 0;
    for round in 0..30_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1", std::thread::current().name().unwrap()])
            .env(KILLED, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // At some moment after its first step of this round.
        let path = dir.path().join("told");
        let before = fs::metadata(&path).map_or(0, |of| of.len());
        while fs::metadata(&path).map_or(0, |of| of.len()) == before {
            assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 3_700 % 17_000));
        assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let told = fs::read_to_string(dir.path().join("told")).unwrap_or_default();
        let whole = told.rfind('\n').map_or("", |end| &told[..end]);
        let answered: u64 = whole.lines().last().map_or(0, |line| line.parse().unwrap());
        let found = step_of(&open(dir.path()));
        assert!(found == answered || found == answered + 1, "round {round}: {found}, {answered}");
        assert!(found >= reached, "round {round}: a term went back");
        reached = found;
        // What was done and not told is told by whoever looks.
        fs::write(dir.path().join("told"), format!("{found}\n")).unwrap();
    }
    assert!(reached > 30, "the child did too little: {reached} steps");
}
