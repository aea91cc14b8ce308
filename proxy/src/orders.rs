//! What the coordinator may order a proxy to do: replicate, write media, prove, drill, look, give
//! back what it lost, and let go of points as far as the floor of this site allows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom_node::collector::Collector;
use strongroom_node::desk::{Task, Worker};
use strongroom_node::home::{Home, MediaSettings};
use strongroom_node::kept::KeptPolicy;
use strongroom_protocol::control::{
    Ending, ExpireAnswer, ExpireOrder, ExpireOutcome, FromNode, Progress, RetryAdvice, StepNews,
    Work,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, MediaSetName, PointId, Timestamp};
use strongroom_store::media::FlawedPack;
use strongroom_store::repo::Repo;
use strongroom_store::tape::{Barcode, TapeLibrary};

use crate::aux::Tally;
use crate::cartridges::{Cartridges, Known, What};
use crate::drills::{Range, drill};
use crate::expire::{Keeper, MediaKeeper};
use crate::proofs::Proofs;
use crate::{aux, heal, look, prove, release, replicate};

/// The proxy's hands.
pub(crate) struct Hands {
    pub(crate) repo: Repo,
    pub(crate) library: Option<Arc<dyn TapeLibrary>>,
    /// Where cartridges are.
    pub(crate) cartridges: Arc<Cartridges>,
    pub(crate) media: MediaSettings,
    pub(crate) spare: PathBuf,
    /// One session on the media at a time: there may be one drive only.
    pub(crate) drives: tokio::sync::Mutex<()>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) media_keeper: Arc<MediaKeeper>,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) home: Home,
}

/// What work on media needs.
pub(crate) struct Media {
    pub(crate) library: Arc<dyn TapeLibrary>,
    pub(crate) cartridges: Arc<Cartridges>,
    /// What was let go on media.
    pub(crate) keeper: Arc<MediaKeeper>,
    pub(crate) settings: MediaSettings,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Media {
    /// What is known of cartridges, after a look at the library.
    pub(crate) fn known(&self) -> Result<Known, Refusal> {
        self.cartridges.look(&*self.library, self.clock.now())
    }

    /// Notes cartridges from which packs did not come whole: they are due for refresh.
    pub(crate) fn note_flawed(&self, flawed: &[FlawedPack]) -> Result<(), Refusal> {
        let mut packs: BTreeMap<&Barcode, usize> = BTreeMap::new();
        for pack in flawed {
            *packs.entry(&pack.barcode).or_default() += 1;
        }
        let known = self.cartridges.known();
        for (barcode, packs) in packs {
            if !known.flawed.contains_key(barcode) {
                let what = What::Flawed { packs };
                self.cartridges.note(self.clock.now(), "reading", barcode, what)?;
            }
        }
        Ok(())
    }
}

type Outcome = Result<(Progress, String), Refusal>;

impl Hands {
    fn range(&self) -> Range<'_> {
        let Self { home, repo, proofs, keeper, clock, .. } = self;
        Range { home, repo, proofs, keeper, clock: &**clock }
    }

    async fn do_work(self: &Arc<Self>, task: &Task) -> Outcome {
        match task.work.clone() {
            Work::Replicate { point, bits_per_second_max } => {
                let progress = replicate::replicate(&self.repo, task, point, bits_per_second_max)
                    .await
                    .map_err(|error| error.refusal())?;
                let keeper = Arc::clone(&self.keeper);
                blocking(move || {
                    keeper.arrived(point);
                    Ok((progress, "every pack checked against its name".to_owned()))
                })
                .await
            }
            Work::Aux { set, points, .. } => {
                let library = self.library()?;
                let _drive = self.drives.lock().await;
                let (repo, media, task) = (self.repo.clone(), self.media(library), task.clone());
                blocking(move || aux::write_points(&repo, &media, set, &points, &Tally::of(&task)))
                    .await
            }
            Work::Prove { set: None, point, .. } => {
                let (repo, task) = (self.repo.clone(), task.clone());
                let keeper = Arc::clone(&self.keeper);
                blocking(move || {
                    let proven = prove::read_point(&repo, point, &task)?;
                    keeper.proven(point);
                    Ok(proven)
                })
                .await
            }
            Work::Prove { set: Some(set), point, .. } => {
                let library = self.library()?;
                let _drive = self.drives.lock().await;
                let (repo, media) = (self.repo.clone(), self.media(library));
                blocking(move || {
                    let proven = prove::read_media(&repo, &media, point)?;
                    media.keeper.proven(&set, point);
                    Ok(proven)
                })
                .await
            }
            Work::Drill(work) => {
                let (hands, task) = (Arc::clone(self), task.clone());
                blocking(move || drill(&hands.range(), &task, &work)).await
            }
            Work::Expire { points, order, .. } => self.expire(task, points, order).await,
            Work::Release { set, points, order, .. } => {
                self.release(task, set, points, order).await
            }
            Work::Heal { .. } => heal::give_back(&self.repo, task).await,
            Work::Look { set, points, .. } => self.look(task, set, points).await,
            Work::Protect(_)
            | Work::ProtectApp(_)
            | Work::ProtectBlocks { .. }
            | Work::Recover(_) => {
                Err(Refusal::new(RefusalKind::Invalid, "a proxy protects no workloads"))
            }
        }
    }

    async fn expire(&self, task: &Task, points: Vec<PointId>, order: ExpireOrder) -> Outcome {
        let (keeper, job) = (Arc::clone(&self.keeper), task.job);
        let obeyed = tokio::task::spawn_blocking(move || keeper.obey(job, &points, order)).await;
        let died = |_| Err(Refusal::new(RefusalKind::Internal, "a worker died"));
        let answers = obeyed.unwrap_or_else(died)?;
        if answers.iter().any(|answer| answer.outcome == ExpireOutcome::Gone) {
            self.collector.want();
        }
        Ok(answer_expired(task, answers, "gone").await)
    }

    /// Lets go of points on media. The cartridges are looked at only for what is not known of.
    async fn release(
        &self,
        task: &Task,
        set: MediaSetName,
        points: Vec<PointId>,
        order: ExpireOrder,
    ) -> Outcome {
        let (repo, media, job) = (self.repo.clone(), self.media(self.library()?), task.job);
        let drive = match self.media_keeper.is_unknown(&set, &points) {
            true => Some(self.drives.lock().await),
            false => None,
        };
        let is_looked = drive.is_some();
        let obeyed = blocking(move || {
            if is_looked {
                release::look(&repo, &media, &set)?;
            }
            release::obey(&media, job, &set, &points, order)
        });
        let answers = obeyed.await?;
        Ok(answer_expired(task, answers, "let go").await)
    }

    /// Tells the coordinator which of the points are not whole.
    async fn look(&self, task: &Task, set: Option<MediaSetName>, points: Vec<PointId>) -> Outcome {
        let repo = self.repo.clone();
        let asked = points.len();
        let looked = if set.is_some() {
            let library = self.library()?;
            let _drive = self.drives.lock().await;
            let media = self.media(library);
            blocking(move || look::media(&repo, &media, &points)).await?
        } else {
            blocking(move || look::repository(&repo, &points)).await?
        };
        let text = format!("{} of {asked} points are not whole", looked.len());
        let (job, generation) = (task.job, task.generation);
        task.uplink.say(FromNode::Lost { job, generation, points: looked }).await;
        Ok((Progress::default(), text))
    }

    fn media(&self, library: Arc<dyn TapeLibrary>) -> Media {
        Media {
            library,
            cartridges: Arc::clone(&self.cartridges),
            keeper: Arc::clone(&self.media_keeper),
            settings: self.media.clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    pub(crate) fn library(&self) -> Result<Arc<dyn TapeLibrary>, Refusal> {
        self.library.clone().ok_or_else(|| {
            let text = "this proxy has no tape library; name one as `library` in its node.toml";
            Refusal::new(RefusalKind::Unavailable, text)
        })
    }
}

async fn answer_expired(task: &Task, answers: Vec<ExpireAnswer>, word: &str) -> (Progress, String) {
    let gone = answers.iter().filter(|answer| answer.outcome == ExpireOutcome::Gone).count();
    let text = format!("{gone} of {} points are {word}", answers.len());
    let (job, generation) = (task.job, task.generation);
    task.uplink.say(FromNode::Expired { job, generation, answers }).await;
    (Progress::default(), text)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
}

const fn step_of(work: &Work) -> &'static str {
    match work {
        Work::Replicate { .. } => "replicate",
        Work::Aux { .. } => "write-media",
        Work::Prove { .. } => "prove",
        Work::Drill(_) => "drill",
        Work::Expire { .. } => "expire",
        Work::Release { .. } => "release",
        Work::Heal { .. } => "give-back",
        Work::Look { .. } => "look",
        Work::Protect(_) | Work::ProtectApp(_) | Work::ProtectBlocks { .. } | Work::Recover(_) => {
            "refuse"
        }
    }
}

impl Worker for Hands {
    async fn perform(self: Arc<Self>, task: Task) -> Ending {
        let step = step_of(&task.work);
        task.step(step, StepNews::Started).await;
        match self.do_work(&task).await {
            Ok((progress, text)) => {
                task.step(step, StepNews::Done(text.clone())).await;
                Ending::Done { progress, text }
            }
            Err(refusal) if refusal.kind == RefusalKind::Cancelled => Ending::Cancelled,
            Err(refusal) => {
                tracing::warn!(job = %task.job, step, %refusal, "an order was not carried out");
                task.step(step, StepNews::Failed(refusal.to_string())).await;
                let retry = match refusal.kind {
                    RefusalKind::Invalid | RefusalKind::Forbidden => RetryAdvice::Pointless,
                    _ => RetryAdvice::Later,
                };
                Ending::Failed { refusal, retry }
            }
        }
    }

    fn proof_noted(&self, point: PointId, at: Timestamp) {
        self.proofs.noted(point, at);
    }

    fn policy(&self, version: u64, file: String, toml: String) {
        if let Err(error) = (KeptPolicy { version, file, toml }).keep(&self.home) {
            tracing::error!(error = %Chain(&error), "the policy was not kept");
        }
    }
}
