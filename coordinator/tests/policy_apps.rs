//! Applications in the policy file: what each kind may say, and how each mistake is named.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use strongroom_coordinator::policy::{AppSource, Change, Declared, Source, parse, plan};
use strongroom_coordinator::retention::Marks;
use strongroom_protocol::Timestamp;
use strongroom_protocol::control::AppKind;

const DATABASE: &str = r#"[policy.standard]
schedule = ["every 4h"]
timezone = "UTC"
[policy.standard.primary]
keep = { newest = 10 }
[workload."crm@db1"]
agent = "db1"
policy = "standard"
kind = "postgres"
user = "backup"
max_lag = "10m"
host = "/var/run/postgresql"
port = 5433
"#;

fn declared(text: &str) -> Declared {
    parse("policy.toml", text).unwrap().declared
}

fn wrong(old: &str, new: &str) -> String {
    assert!(DATABASE.contains(old), "{old}");
    let text = DATABASE.replacen(old, new, 1);
    let problems = parse("policy.toml", &text).map(|parsed| parsed.warnings).unwrap_err();
    problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_application_is_read_in_the_order_of_its_kind() {
    let declared = declared(DATABASE);
    let workload = declared.workloads.values().next().unwrap();
    let pairs =
        [("host", "/var/run/postgresql"), ("port", "5433"), ("user", "backup"), ("max_lag", "600")];
    let settings = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let expected = Source::App(AppSource { kind: AppKind::Postgres, settings });
    assert_eq!(workload.source, expected);
    assert_eq!(
        (workload.source.kind(), workload.source.place().as_str()),
        ("postgres", pairs[0].1)
    );
}

#[test]
fn each_mistake_has_a_place_and_a_suggestion() {
    for (old, new, expected) in [
        (
            "user",
            "usr",
            "policy.toml:10:1: unknown key `usr` in workload.crm@db1; did you mean `user`?",
        ),
        ("host = \"/var/run/postgresql\"\n", "", "workload.crm@db1 has no `host`"),
        ("host =", "path = \"/srv\"\nhost =", "unknown key `path`"),
        ("max_lag = \"10m\"", "max_lag = \"soon\"", "is not a duration"),
        ("port = 5433", "port = \"5433\"", "`port` in workload.crm@db1 must be a whole number"),
        ("port = 5433", "password_file = \"pw\"", "\"pw\" is not an absolute path"),
        ("port = 5433", "prefer = \"standby\"", "`prefer` cannot be \"standby\""),
        ("kind = \"postgres\"", "kind = \"postgre\"", "did you mean `postgres`?"),
    ] {
        let said = wrong(old, new);
        assert!(said.contains(expected), "{new}: {said}");
    }
}

#[test]
fn a_server_of_mariadb_has_its_own_keys() {
    let text = DATABASE.replace("postgres\"", "mariadb\"").replace("max_lag", "lock_wait");
    let declared = declared(&text);
    let workload = declared.workloads.values().next().unwrap();
    assert_eq!(workload.source.kind(), "mariadb");
    let Source::App(source) = &workload.source else { panic!("{workload:?}") };
    assert!(source.settings.contains(&("lock_wait".to_owned(), "600".to_owned())));
    let text = text.replace("port = 5433", "way = \"dump\"");
    let problems = parse("policy.toml", &text).map(|parsed| parsed.warnings).unwrap_err();
    let said: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.contains("`way` cannot be \"dump\"")), "{said:?}");
}

#[test]
fn a_plan_names_the_setting_that_changes() {
    let old = declared(DATABASE);
    let new = declared(&DATABASE.replace("5433", "5434"));
    let changes = plan(Some(&old), &new, &[], &Marks::default(), Timestamp::default());
    let text = format!("{changes:?}");
    assert!(text.contains("port") && text.contains("5433") && text.contains("5434"), "{text}");
    let unchanged: Vec<Change> =
        plan(Some(&old), &old, &[], &Marks::default(), Timestamp::default());
    assert_eq!(unchanged, vec![]);
}

#[test]
fn a_machine_of_vsphere_says_where_and_as_whom() {
    let before = DATABASE.split("kind =").next().unwrap();
    let text = format!(
        "{before}kind = \"vsphere\"\nmachine = \"web1\"\nurl = \"https://vc\"\nuser = \"b\"\n\
         change_tracking = \"enabled\"\npassword_file = \"/etc/pw\"\n"
    );
    let read = declared(&text);
    let workload = read.workloads.values().next().unwrap();
    assert_eq!((workload.source.kind(), workload.source.place().as_str()), ("vsphere", "web1"));
    let said = parse("policy.toml", &text.replace("url", "# url")).map(|_| ()).unwrap_err();
    assert!(said.0.iter().any(|wrong| wrong.to_string().contains("has no `url`")), "{said:?}");
}
