//! Which member of a cluster makes the point of a job: asks the agents beside them, has the pure
//! decision made ([`crate::members`]), writes it into the journal. The generation is what fences:
//! who was passed over because it was away may end its stream, and commits nothing.

use std::collections::BTreeMap;

use strongroom_protocol::control::{RetryAdvice as Advice, ToNode};
use strongroom_protocol::member::{MemberAnswer, MemberQuestion, MemberRole};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, JobId, NodeName, Timestamp};

use super::Jobs;
use crate::job::{Cause, Chosen, Event, FailClass, Next, RetryAdvice, Step, Task, WaitReason};
use crate::members::{Seen, Wish, choose};
use crate::policy::{AppSource, Members, Source};

/// An agent that did not answer by then does not answer: its own limit is 15 s.
const ANSWER_SECONDS_MAX: i64 = 20;
/// How soon members are looked at again when none could make the point, in seconds.
const LOOK_AGAIN_SECONDS: i64 = 10;
/// How soon, when each that could was tried, in seconds.
const ROUND_SECONDS: i64 = 60;
/// How long the agent of a chosen member may be away in the middle before another member is
/// ordered, in seconds: a flapping link is sat out, an outage is not.
const AWAY_SECONDS_MAX: i64 = 20;

/// A question to the agent of a member.
#[derive(Debug)]
struct Asked {
    member: NodeName,
    agent: NodeName,
    number: u64,
    answer: Option<Seen>,
}

/// A member that was tried.
#[derive(Debug)]
struct Tried {
    why: String,
    pointless: bool,
}

/// What is known of the members of a job's cluster between two attempts.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The journal names the member of the attempt that is about to be made.
    pub(super) settled: bool,
    asked: Vec<Asked>,
    until: Timestamp,
    tried: BTreeMap<NodeName, Tried>,
    look_again: Timestamp,
    away_since: Option<Timestamp>,
}

impl Round {
    /// Whether there is something to do for a job that waits for a member.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        // A pause that would last longer than the longest is over: the clock went back.
        let longest = now.plus_seconds(ROUND_SECONDS);
        !self.asked.is_empty() || self.look_again <= now || self.look_again > longest
    }
}

impl Jobs {
    /// The members of the cluster that a job protects, as they are declared now.
    fn members(&self, job: JobId) -> Option<(Members, AppSource)> {
        let Task::Protect { workload, .. } = self.live.get(&job)?.job.task() else { return None };
        let in_force = self.site.in_force();
        let declared = in_force.declared.workloads.get(workload)?;
        let Source::App(app) = &declared.source else { return None };
        Some((declared.members.clone()?, app.clone()))
    }

    /// Whether it is settled who makes the point: there is one agent, or a member was chosen.
    pub(super) fn is_settled(&self, job: JobId) -> bool {
        let settled = self.live.get(&job).is_none_or(|live| live.round.settled);
        settled || self.has_its_point(job) || self.members(job).is_none()
    }

    /// Whether another member may be chosen, now that the agent of the one that was is away.
    pub(super) fn is_unsettled(&mut self, job: JobId) -> bool {
        let has_members = self.members(job).is_some();
        if let Some(live) = self.live.get_mut(&job) {
            live.round.settled = false;
        }
        has_members
    }

    /// Asks the members, or decides once they answered or had the time to.
    pub(super) fn choose(&mut self, job: JobId) {
        let now = self.site.now();
        let Some((members, app)) = self.members(job) else { return };
        let Some(live) = self.live.get_mut(&job) else { return };
        if live.job.next_once_ready() != Next::Run(Step::Assign) {
            // It was cancelled meanwhile.
            live.round.asked.clear();
            return;
        }
        if live.round.asked.is_empty() {
            self.ask(job, &members, &app, now);
        }
        let Some(live) = self.live.get(&job) else { return };
        let all = live.round.asked.iter().all(|asked| asked.answer.is_some());
        if all || live.round.until <= now {
            self.decide(job, &members, now);
        }
    }

    fn ask(&mut self, job: JobId, members: &Members, app: &AppSource, now: Timestamp) {
        let mut all = Vec::new();
        for member in &members.of {
            self.asked = self.asked.wrapping_add(1);
            let number = self.asked;
            let tried = self.live.get(&job).and_then(|live| live.round.tried.get(&member.name));
            let question =
                MemberQuestion { number, kind: app.kind, settings: member.settings.clone() };
            let answer = match tried {
                Some(tried) => Some(Seen::Failed(tried.why.clone())),
                None => {
                    let asked = ToNode::Member(Box::new(question));
                    let said = self.site.sessions.say_agent(&member.agent, asked);
                    (!said).then_some(Seen::Away)
                }
            };
            let (member, agent) = (member.name.clone(), member.agent.clone());
            all.push(Asked { member, agent, number, answer });
        }
        if let Some(live) = self.live.get_mut(&job) {
            live.round.asked = all;
            live.round.until = now.plus_seconds(ANSWER_SECONDS_MAX);
        }
    }

    /// An agent says what a member is.
    pub(crate) fn answered(&mut self, node: &NodeName, number: u64, answer: MemberAnswer) {
        let is_it = |asked: &Asked| {
            asked.number == number && asked.agent == *node && asked.answer.is_none()
        };
        let found = self.live.values_mut().find_map(|live| {
            let id = live.job.id();
            live.round.asked.iter_mut().find(|asked| is_it(asked)).map(|asked| (id, asked))
        });
        let Some((job, asked)) = found else { return };
        asked.answer = Some(match answer {
            MemberAnswer::Is(state) => Seen::Is(state),
            MemberAnswer::Refused(refusal) => Seen::Refused(refusal),
        });
        if !self.is_settled(job) {
            self.choose(job);
        }
    }

    fn decide(&mut self, job: JobId, members: &Members, now: Timestamp) {
        let Some(live) = self.live.get_mut(&job) else { return };
        let asked = std::mem::take(&mut live.round.asked);
        let seen: Vec<(NodeName, Seen)> = asked
            .into_iter()
            .map(|asked| (asked.member, asked.answer.unwrap_or(Seen::Silent)))
            .collect();
        let cluster = match self.site.catalog.cluster_of(live.job.task().workload()) {
            Ok(cluster) => cluster,
            Err(error) => {
                tracing::error!(%job, error = %Chain(&error), "no member can be chosen");
                live.round.look_again = now.plus_seconds(LOOK_AGAIN_SECONDS);
                return;
            }
        };
        let wish = Wish { prefer: members.prefer, lag_seconds_max: members.lag_seconds_max };
        let chosen = match choose(wish, cluster.as_deref(), &seen) {
            Ok(chosen) => chosen,
            Err(nobody) => {
                let for_good = nobody.0.iter().all(|(member, why)| {
                    let tried = live.round.tried.get(member);
                    why.is_for_good() || tried.is_some_and(|tried| tried.pointless)
                });
                let pause = match live.round.tried.is_empty() {
                    true => LOOK_AGAIN_SECONDS,
                    false => ROUND_SECONDS,
                };
                live.round.tried.clear();
                live.round.look_again = now.plus_seconds(pause);
                return match for_good {
                    true => self.give_up(job, nobody.to_string()),
                    false => self.wait_for_a_member(job, nobody.to_string()),
                };
            }
        };
        let Some(member) = members.of.iter().find(|of| of.name == chosen.member) else { return };
        let role = match chosen.role {
            MemberRole::Primary => "primary",
            MemberRole::Standby => "standby-only",
        };
        let event = Event::Chosen(Chosen {
            member: chosen.member,
            agent: member.agent.clone(),
            cluster: chosen.cluster,
            role: role.to_owned(),
            why: chosen.why,
        });
        if self.event(job, event) {
            if let Some(live) = self.live.get_mut(&job) {
                live.round.settled = true;
            }
            self.assign(job);
        }
    }

    /// The same reason is written once, however often it is met.
    fn wait_for_a_member(&mut self, job: JobId, why: String) {
        let waits = Next::Wait(WaitReason::NoMember { why: why.clone() });
        if self.live.get(&job).is_some_and(|live| live.job.next() != waits) {
            self.event(job, Event::Waiting(WaitReason::NoMember { why }));
        }
    }

    /// A member that was chosen made no point: notes it for this round, unless it got as far as
    /// streaming. Whether there is another to be tried.
    pub(super) fn failed_before_streaming(
        &mut self,
        job: JobId,
        refusal: &Refusal,
        retry: Advice,
    ) -> bool {
        let Some((members, _)) = self.members(job) else { return false };
        let Some(live) = self.live.get_mut(&job) else { return false };
        let Some(member) = live.job.chosen().map(|chosen| chosen.member.clone()) else {
            return false;
        };
        let begun = live.job.output(Step::Assign).is_some();
        let streamed = live.streaming == Some(live.job.generation());
        if !begun || streamed {
            return false;
        }
        let pointless = retry == Advice::Pointless;
        live.round.tried.insert(member, Tried { why: refusal.text.clone(), pointless });
        let tried = |of: &&crate::policy::Member| live.round.tried.contains_key(&of.name);
        members.of.iter().any(|of| !tried(&of))
    }

    /// The point of a chosen member is there: the workload is of its cluster from now on.
    pub(super) fn note_cluster(&self, job: JobId) {
        let Some(live) = self.live.get(&job) else { return };
        let Some(chosen) = live.job.chosen() else { return };
        let workload = live.job.task().workload();
        if let Err(error) = self.site.catalog.note_cluster(workload, &chosen.cluster) {
            tracing::error!(%job, error = %Chain(&error), "the cluster was not noted");
        }
    }

    /// Jobs whose chosen member has been away for too long in the middle of them are passed on.
    pub(super) fn pass_on_what_is_away(&mut self, now: Timestamp) {
        let mut lost = Vec::new();
        for live in self.live.values_mut() {
            let begun = live.job.output(Step::Assign).is_some() && !live.job.has_landed();
            let committing = live.job.running() == Some(Step::Commit);
            let node = live.job.task().node();
            let here = self.site.sessions.agent(node).is_some();
            if live.job.chosen().is_none() || !begun || committing || here {
                live.round.away_since = None;
                continue;
            }
            let since = *live.round.away_since.get_or_insert(now);
            if now.seconds_since(since) >= AWAY_SECONDS_MAX {
                live.round.away_since = None;
                lost.push((live.job.id(), node.clone()));
            }
        }
        for (job, node) in lost {
            if self.members(job).is_some() {
                self.pass_on(job, &node);
            }
        }
    }

    fn pass_on(&mut self, job: JobId, node: &NodeName) {
        let Some(live) = self.live.get_mut(&job) else { return };
        live.early = None;
        let (generation, running) = (live.job.generation().next(), live.job.running());
        let Next::Run(step) = live.job.next_once_ready() else { return };
        let text = format!("agent {node} was away for {AWAY_SECONDS_MAX} s in the middle");
        let (class, retry) = (FailClass::SnapshotLost, RetryAdvice::Later);
        // From here on whatever it still sends is of an older generation.
        let fenced = self.event(job, Event::Reassigned(generation))
            && (running == Some(step) || self.event(job, Event::Started(step)))
            && self.event(job, Event::Failed(step, Cause { class, text, retry }));
        if fenced {
            self.give_up_undoing(job, node);
            self.retry_now(job);
        }
    }
}
