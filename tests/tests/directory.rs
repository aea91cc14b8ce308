//! A real domain of Samba, protected and restored: increments equal a fresh read of everything,
//! a deleted unit with all in it comes back with its identities and memberships from the other
//! site, an undo file takes that back, and what goes wrong is said with the way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use strongroom_agent::samba::{self, DOMAIN as BASE, Shape};
use strongroom_agent::workload::directory::carry::{Carrier, Outcome, Passwords};
use strongroom_agent::workload::directory::change::{Act, Change, Edit};
use strongroom_agent::workload::directory::compare::{self, compare};
use strongroom_agent::workload::directory::ldap::{Connection, LdapProblem, Server};
use strongroom_agent::workload::directory::object::Object;
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_agent::workload::directory::read::Reader;
use strongroom_agent::workload::directory::wish::{PlanError, Wish, wished};
use strongroom_tests::domain::{DOMAIN, Domain, Vouched, keys};

const SHAPE: Shape = Shape { users: 160, users_a_unit: 40, enabled_every: 12 };
/// What a restore cannot bring back as it was: passwords, and the trace of the deletion.
const EXPECTED: [&str; 2] = ["lastKnownParent", "pwdLastSet"];

fn vouched() -> Vouched {
    vouched_until(4000)
}

fn vouched_until(year: i32) -> Vouched {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(vec!["dc1.test.lan".to_owned()]).unwrap();
    // The address is not known before the domain controller is there: any of ours.
    server.not_after = rcgen::date_time_ymd(year, 1, 1);
    server.subject_alt_names.extend(addresses().map(SanType::IpAddress));
    let certificate = server.signed_by(&own, &issuer).unwrap();
    Vouched { authority: signed.pem(), certificate: certificate.pem(), key: own.serialize_pem() }
}

fn addresses() -> impl Iterator<Item = IpAddr> {
    let process = std::process::id();
    (0..8).map(move |number| samba::address(process, number).into())
}

async fn done(carrier: &Carrier, changes: Vec<Change>) {
    let mut outcome = Outcome::default();
    carrier.run(&[changes], &mut outcome).await.unwrap();
    assert_eq!(outcome.refused, Vec::<String>::new());
}

fn modify(dn: &str, attribute: &str, act: Act, values: &[&str]) -> Change {
    let values = values.iter().map(|value| value.as_bytes().to_vec()).collect();
    let edits = vec![Edit { attribute: attribute.to_owned(), act, values }];
    Change::Modify { dn: dn.to_owned(), edits }
}

/// Every object as it is kept, with what one domain controller counts by itself left out.
fn objects(picture: &Picture) -> BTreeMap<String, Object> {
    picture.objects().map(|object| (object.guid.to_string(), object.clone())).collect()
}

async fn live(carrier: &Carrier) -> Picture {
    Picture::live(&carrier.reader).await.unwrap()
}

/// Differences that are none of the expected, in words.
fn unexpected(before: &Picture, after: &Picture, base: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for difference in compare(before, after, base) {
        match difference.change {
            compare::Change::Changed { before: None, attributes } => {
                found.extend(attributes.into_iter().filter_map(|change| {
                    let known = EXPECTED.contains(&change.attribute.as_str());
                    (!known).then(|| format!("{} {change:?}", difference.dn))
                }));
            }
            other => found.push(format!("{} {other:?}", difference.dn)),
        }
    }
    found
}

async fn change_much(carrier: &Carrier) {
    let unit = format!("OU=Staff,{BASE}");
    let user = |number: usize| format!("CN=Staff {number},OU=Unit 0,{unit}");
    done(
        carrier,
        vec![
            modify(&user(1), "description", Act::Replace, &["changed"]),
            modify(&format!("CN=Staff G1,OU=Unit 1,{unit}"), "member", Act::Add, &[&user(2)]),
            Change::Delete { dn: user(5) },
        ],
    )
    .await;
    // Whatever is below has another name then, and whoever links to it another value.
    let (from, to) = (format!("OU=Unit 2,{unit}"), format!("OU=Unit Two,{unit}"));
    done(carrier, vec![Change::Rename { dn: from, to }]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_comes_back_with_everything_in_it() {
    let vouched = vouched();
    let config = "domain = \"none\"";
    let domain = Domain::start(&vouched, config).await.unwrap();
    let carrier = Carrier::open(&domain.server()).await.unwrap();
    let filled = samba::fill(&carrier, "Staff", SHAPE).await.unwrap();
    assert_eq!(filled.refused, Vec::<String>::new());
    let more = format!(
        "domain = \"offline\"\nsamba_config = \"{}\"",
        domain.controller.config().display()
    );
    domain.point_at("Administrator@test.lan", &more).await.unwrap();

    let first = domain.point().await.unwrap();
    let picture = domain.picture("coordinator", first).await.unwrap();
    let about = picture.about.clone().unwrap();
    assert!(about.settled && about.whole_domain == "offline", "{about:?}");
    assert!(about.naming_contexts.iter().all(|c| c.read_whole.is_some()), "{about:?}");
    assert_eq!(objects(&picture), objects(&live(&carrier).await));

    change_much(&carrier).await;
    let second = domain.point().await.unwrap();
    let picture = domain.picture("coordinator", second).await.unwrap();
    let about = picture.about.clone().unwrap();
    assert!(about.naming_contexts.iter().all(|c| c.read_whole.is_none()), "{about:?}");
    assert!(about.naming_contexts.iter().all(|c| c.changes_by == "dirsync"), "{about:?}");
    let read: u64 = about.naming_contexts.iter().map(|context| context.read).sum();
    assert!((40..200).contains(&read), "{read} objects were read again");
    let now = live(&carrier).await;
    assert_eq!(objects(&picture), objects(&now));

    let earlier = domain.picture("coordinator", first).await.unwrap();
    let changed = compare(&earlier, &picture, None);
    let user = changed.iter().find(|one| one.dn.starts_with("CN=Staff 1,")).unwrap();
    let compare::Change::Changed { attributes, .. } = &user.change else {
        panic!("{user:?}");
    };
    let description = attributes.iter().find(|one| one.attribute == "description").unwrap();
    assert_eq!(description.added, [b"changed".to_vec()]);
    let by = description.by.clone().unwrap();
    assert_eq!((by.stamp.version, by.controller.as_deref()), (2, Some("DC1")));
    domain.sites.await_copy("secondary", "readable").await.unwrap();
    let kept = domain.picture("proxy", second).await.unwrap();
    single_attributes(&carrier, &kept).await;
    restore_and_undo(&carrier, &kept).await;
    domain.stop().await.unwrap();
}

async fn single_attributes(carrier: &Carrier, kept: &Picture) {
    let user = format!("CN=Staff 7,OU=Unit 0,OU=Staff,{BASE}");
    let group = format!("CN=Staff G0,OU=Unit 0,OU=Staff,{BASE}");
    let seen = async || {
        let now = live(carrier).await;
        let text = |name| now.named(&user).unwrap().text(name).unwrap_or_default().to_owned();
        let member =
            now.named(&group).unwrap().values("member").contains(&user.clone().into_bytes());
        (text("description"), text("department"), member)
    };
    let before = seen().await;
    done(
        carrier,
        vec![
            modify(&user, "description", Act::Replace, &["spoilt"]),
            modify(&user, "department", Act::Replace, &["moved"]),
            modify(&group, "member", Act::Remove, &[&user]),
        ],
    )
    .await;
    let attributes = Some(vec!["description".to_owned(), "memberOf".to_owned()]);
    let wish = Wish { names: vec![user.clone()], subtree: false, attributes };
    let plan = carrier.plan(kept, &wish).await.unwrap();
    let outcome = carrier.restore(kept, &wish, &plan, Passwords::Random).await.unwrap();
    assert_eq!((outcome.refused, outcome.passwords), (Vec::new(), 0));
    assert_eq!(seen().await, (before.0, "moved".to_owned(), true));
    carrier.run(&plan.undo, &mut Outcome::default()).await.unwrap();
    assert_eq!(seen().await, ("spoilt".to_owned(), "moved".to_owned(), false));
}

async fn restore_and_undo(carrier: &Carrier, kept: &Picture) {
    let unit = format!("OU=Staff,{BASE}");
    let all = format!("CN=All Staff,{BASE}");
    let gone = samba::delete(carrier, &unit).await.unwrap();
    assert!(gone > SHAPE.users as u64, "{gone}");
    assert!(live(carrier).await.named(&unit).is_none());
    let wish = Wish { names: vec![unit.clone()], subtree: true, attributes: None };
    let plan = carrier.plan(kept, &wish).await.unwrap();
    assert!(plan.anew.is_empty(), "{:?}", plan.notes);
    let outcome = carrier.restore(kept, &wish, &plan, Passwords::Random).await.unwrap();
    assert_eq!(outcome.refused, Vec::<String>::new());
    let after = live(carrier).await;
    let left = unexpected(kept, &after, None);
    assert!(left.is_empty(), "{} differences: {:#?}", left.len(), &left[..left.len().min(5)]);
    assert_eq!(after.named(&all).unwrap().values("member").len(), SHAPE.users - 1);
    let user = format!("CN=Staff 12,OU=Unit 0,{unit}");
    let (was, is) = (kept.named(&user).unwrap(), after.named(&user).unwrap());
    assert_eq!(was.guid, is.guid);
    assert_eq!(was.values("objectSid"), is.values("objectSid"));
    assert_eq!(is.text("pwdLastSet"), Some("0"), "a random password must be changed");

    let mut undone = Outcome::default();
    carrier.run(&plan.undo, &mut undone).await.unwrap();
    assert_eq!(undone.refused, Vec::<String>::new());
    let undone = live(carrier).await;
    assert!(undone.named(&unit).is_none());
    assert!(undone.named(&all).unwrap().values("member").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_said_with_the_way_out() {
    let vouched = vouched();
    let mut domain = Domain::start(&vouched, "domain = \"none\"").await.unwrap();
    let server = domain.server();
    let problem = async |server: &Server| Connection::open(server).await.err().unwrap();
    let wrong = Server { password: "wrong".to_owned(), ..server.clone() };
    let told = problem(&wrong).await.to_string();
    assert!(told.contains("the password is wrong"), "{told}");
    let stranger = domain.dir.path().join("stranger.pem");
    std::fs::write(&stranger, self::vouched().authority).unwrap();
    let wrong = Server { ca_file: Some(stranger), ..server.clone() };
    let told = problem(&wrong).await;
    assert!(matches!(told, LdapProblem::Certificate { .. }), "{told}");
    assert!(told.to_string().contains("ca_file"), "{told}");
    let wrong = Server { url: server.url.replace("ldaps", "ldap"), ..server.clone() };
    assert!(matches!(problem(&wrong).await, LdapProblem::Plain { .. }));
    let wrong = Server { url: "ldaps://127.0.0.1:9".to_owned(), ..server.clone() };
    assert!(problem(&wrong).await.to_string().contains("636"));

    let carrier = Carrier::open(&server).await.unwrap();
    let shape = Shape { users: 20, users_a_unit: 20, enabled_every: 100 };
    samba::fill(&carrier, "Few", shape).await.unwrap();
    let connection = Connection::open(&server).await.unwrap();
    let reader = Reader::open(connection, Vec::new()).await.unwrap();
    let group = format!("CN=All Few,{BASE}");
    let whole = reader.object_with(&group, &["*"]).await.unwrap().unwrap();
    let part = reader.object_with(&group, &["objectGUID", "member;range=0-6"]).await.unwrap();
    assert_eq!(part.unwrap().values("member"), whole.values("member"));
    assert_eq!(whole.values("member").len(), 20);

    // An account without the right for DirSync: by update sequence numbers, and said so.
    let secret = domain.reader(&carrier, "reader").await;
    domain.password(&secret).unwrap();
    domain.point_at("reader@test.lan", "domain = \"none\"").await.unwrap();
    let (first, first_bytes) = domain.counted().await.unwrap();
    let user = format!("CN=Few 3,OU=Unit 0,OU=Few,{BASE}");
    done(&carrier, vec![modify(&user, "description", Act::Replace, &["other"])]).await;
    let (second, second_bytes) = domain.counted().await.unwrap();
    // What did not change is not read, laid out and looked up again.
    assert!(second_bytes * 20 < first_bytes, "{second_bytes} of {first_bytes} bytes were read");
    let (first, second) = (
        domain.picture("coordinator", first).await.unwrap(),
        domain.picture("coordinator", second).await.unwrap(),
    );
    let about = second.about.clone().unwrap();
    let context = about.naming_contexts.first().unwrap();
    assert_eq!((context.changes_by.as_str(), &context.read_whole), ("usn", &None));
    assert!(context.read < 10, "{about:?}");
    assert_eq!(second.named(&user).unwrap().text("description"), Some("other"));
    let notes = first.about.clone().unwrap().notes.join(" ");
    assert!(notes.contains("DirSync is refused") && notes.contains("uSNChanged"), "{notes}");

    hurt_memory(&domain).await;
    refused_wishes(&carrier, &second, &user).await;
    domain.password("wrong").unwrap();
    let job = domain.sites.protect(DOMAIN).await.unwrap();
    assert_ne!(job.state, "succeeded");
    domain.controller.stop();
    keys(&domain.controller, &vouched_until(2020)).unwrap();
    domain.controller.start().unwrap();
    let own = Server { ca_file: Some(domain.controller.own_certificate()), ..server.clone() };
    let told = problem(&own).await.to_string();
    assert!(told.contains("has expired"), "{told}");
    domain.stop().await.unwrap();
}

/// What the agent remembers is not believed where a part of it is another one.
async fn hurt_memory(domain: &Domain) {
    let parts = domain.remembered();
    assert!(parts.len() > 50, "{}", parts.len());
    std::fs::write(&parts[0], "hurt").unwrap();
    let third = domain.point().await.unwrap();
    let about = domain.picture("coordinator", third).await.unwrap().about.unwrap();
    let why = about.naming_contexts[0].read_whole.clone().unwrap_or_default();
    assert!(why.contains("is not as it was written"), "{why}");
}

async fn refused_wishes(carrier: &Carrier, point: &Picture, user: &str) {
    let absent = Wish { names: vec!["CN=Nobody,DC=test,DC=lan".to_owned()], ..Wish::default() };
    let refused = wished(point, &absent).unwrap_err();
    assert!(matches!(refused, PlanError::Absent { .. }), "{refused}");
    let own = Wish {
        names: vec![user.to_owned()],
        attributes: Some(vec!["objectSid".to_owned()]),
        ..Wish::default()
    };
    let refused = carrier.plan(point, &own).await.unwrap_err().to_string();
    assert!(refused.contains("objectSid"), "{refused}");
}
