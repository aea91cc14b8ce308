//! What a member of a cluster is: its identity, role, timeline, and how far it is behind. Promises
//! to change nothing, and never to call a member nearer than it can show.

use std::time::Duration;

use postgres::Client;
use strongroom_protocol::member::{MemberRole, MemberState};

use crate::workload::postgres::error::PgError;
use crate::workload::postgres::session::Reach;
use crate::workload::postgres::settings::Cluster;
use crate::workload::postgres::wire;

/// A standby that replays what it has received within ten looks follows: records come on an
/// idle server, too, and the age of its last commit says nothing then.
const LOOKS: usize = 10;
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the member that the policy names.
///
/// # Errors
/// Nobody answers, or the role may not do what a run needs.
pub fn look(cluster: &Cluster) -> Result<MemberState, PgError> {
    let mut client = match cluster.dial.reach {
        Reach::Anywhere(_) => wire::connect(&cluster.dial)?,
        Reach::Here => cluster.dial.connect()?,
    };
    let server = cluster.dial.look(&mut client)?;
    let (role, behind) = match server.in_recovery {
        true => (MemberRole::Standby, behind(&mut client)?),
        false => (MemberRole::Primary, Some(Duration::ZERO)),
    };
    Ok(MemberState {
        cluster: server.system_identifier.to_string(),
        role,
        timeline: u64::from(server.timeline),
        lag_ms: behind.map(|behind| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX)),
        version: server.version,
    })
}

/// How far a standby is behind: nothing where it follows and soon has replayed what it had
/// received, else the age of the last commit it replayed; none where it replayed none since it
/// was started.
///
/// # Errors
/// The server did not answer.
pub(super) fn behind(client: &mut Client) -> Result<Option<Duration>, PgError> {
    let query = |source| PgError::Query { what: "say how far behind it is", source };
    // What is received before anything is has no meaning, and lies behind what is replayed.
    let follows = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver) \
         AND pg_last_wal_receive_lsn() >= pg_last_wal_replay_lsn() \
         AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    let received = client.query_one("SELECT pg_last_wal_receive_lsn()::text", &[]);
    let received: Option<String> = received.map_err(query)?.get(0);
    for _ in 0..LOOKS {
        let row = client.query_one(follows, &[&received]).map_err(query)?;
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Ok(Some(Duration::ZERO));
        }
        std::thread::sleep(LOOK);
    }
    let age = "SELECT extract(epoch FROM clock_timestamp() - \
         pg_last_xact_replay_timestamp())::float8";
    let behind: Option<f64> = client.query_one(age, &[]).map_err(query)?.get(0);
    // The clocks of two servers differ; one that is ahead is not behind.
    Ok(behind.and_then(|behind| Duration::try_from_secs_f64(behind.max(0.0)).ok()))
}
