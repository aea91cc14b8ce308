//! Somebody runs the coordinator's home: its certificate, its keys, its place on the network. The
//! proxy believes who it is and still keeps what the floor of its own site keeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;

use strongroom_certs::Peer;
use strongroom_node::door::{self, Visit, Visitors};
use strongroom_node::guard::Guard;
use strongroom_node::home::Home;
use strongroom_node::lasting::lasting_key;
use strongroom_protocol::control::{
    ExpireAnswer, ExpireOrder, ExpireOutcome, FromNode, ToNode, Welcome, Work,
};
use strongroom_protocol::link::{Endpoint, LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal};
use strongroom_protocol::{Clock, FixedClock, Generation, JobId, PointId, Role, SystemClock};
use strongroom_tests::lab::{Cast, Lab};
use strongroom_tests::site::name;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

const LIFE_SECONDS: u32 = 90 * 24 * 3600;
const STEP_SECONDS: i64 = 3000;

/// A program with the coordinator's home that orders everything away.
struct Thief {
    welcome: Welcome,
    points: Vec<PointId>,
    /// One order for each word; the answers go back.
    words: Mutex<mpsc::Receiver<ExpireOrder>>,
    answers: mpsc::Sender<Vec<ExpireAnswer>>,
}

impl Thief {
    async fn order(&self, visit: &mut Visit) -> Result<(), LinkError> {
        let mut words = self.words.lock().await;
        let mut number = 0;
        while let Some(order) = words.recv().await {
            number += 1;
            let (copy, points) = (name("secondary"), self.points.clone());
            let work = Work::Expire { copy, points, order };
            let (job, generation) = (JobId::from_bytes([number; 16]), Generation(1));
            visit.sender.send(&ToNode::Assign { job, generation, work }).await?;
            let answers = loop {
                let said = visit.receiver.expect::<FromNode>().await?.0;
                if let FromNode::Expired { answers, .. } = said {
                    break answers;
                }
            };
            self.answers.send(answers).await.unwrap();
            number %= 200;
        }
        Ok(())
    }
}

impl Visitors for Thief {
    fn admit(&self, _: &Peer, _: &Opening) -> Result<(), Refusal> {
        Ok(())
    }

    async fn serve(self: Arc<Self>, opening: Opening, mut visit: Visit) -> Result<(), LinkError> {
        if opening != Opening::Control || visit.peer.identity.role != Role::Proxy {
            return Ok(());
        }
        visit.receiver.expect::<FromNode>().await?;
        visit.sender.send(&ToNode::Welcome(self.welcome.clone())).await?;
        self.order(&mut visit).await
    }

    async fn enrol(
        self: Arc<Self>,
        _: SocketAddr,
        _: Sender,
        _: Receiver,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    fn turned_away(&self, _: SocketAddr, _: Option<&Peer>, _: &str) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_with_the_coordinators_home_does_not_get_what_the_floor_keeps() {
    let clock = Arc::new(FixedClock::at(SystemClock.now()));
    let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
    let mut lab = Lab::start_with(Cast::TwoSites, shared, LIFE_SECONDS).await.unwrap();
    let mut points = Vec::new();
    for seed in 1..=5 {
        lab.write("file", 200_000, seed).unwrap();
        points.push(lab.point().await.unwrap());
        lab.sites.await_copy("secondary", "readable").await.unwrap();
        clock.set(clock.now().plus_seconds(1));
    }
    lab.stop_coordinator().await.unwrap();

    let home = Home::open_as(&lab.sites.home("coordinator"), Role::Coordinator).unwrap();
    let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
    let guard = Arc::new(Guard::open(&home, shared).unwrap());
    let (tls, lasting) = (guard.server_tls().unwrap(), lasting_key(&home).unwrap());
    let endpoint = Endpoint::listen(lab.sites.coordinator_at, tls, lasting).unwrap();
    let (word, words) = mpsc::channel(1);
    let (answers, mut answered) = mpsc::channel(1);
    let welcome = Welcome { repo: lab.sites.repo, now: clock.now(), naming: None };
    let thief = Thief { welcome, points: points.clone(), words: Mutex::new(words), answers };
    let stop = CancellationToken::new();
    let keeping = tokio::task::spawn(door::keep(endpoint, guard, Arc::new(thief), stop.clone()));

    let week = 7 * 24 * 3600;
    let mut passed = 0;
    let mut gone = 0;
    while passed < week + 3 * 24 * 3600 {
        clock.set(clock.now().plus_seconds(STEP_SECONDS));
        passed += STEP_SECONDS;
        word.send(ExpireOrder::Remove).await.unwrap();
        let answers: Vec<ExpireAnswer> = answered.recv().await.unwrap();
        assert_eq!(answers.len(), points.len());
        gone = answers.iter().filter(|answer| answer.outcome == ExpireOutcome::Gone).count();
        if passed < week {
            assert_eq!(gone, 0, "after {passed} seconds");
        }
    }
    assert_eq!(gone, 2, "what is old enough and not among the newest three goes in the end");
    drop(word);
    let left = lab.sites.points("proxy").await.unwrap();
    let mut left: Vec<PointId> = left.into_iter().map(|row| row.id).collect();
    left.sort();
    let mut newest = points[2..].to_vec();
    newest.sort();
    assert_eq!(left, newest);
    lab.restores_as("proxy", points[4], &lab.source).await.unwrap();
    stop.cancel();
    keeping.await.unwrap();
    let journal = std::fs::read_to_string(lab.sites.home("proxy").join("expiry.log")).unwrap();
    assert_eq!(journal.lines().filter(|line| line.contains("\"removing\"")).count(), 2);
}
