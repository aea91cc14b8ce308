//! Getting in: the parameters of the replication protocol, and the password by SCRAM. A password
//! in the clear or by MD5 is only said where nobody can listen.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use crate::workload::postgres::error::PgError;
use crate::workload::postgres::session::Dial;
use crate::workload::postgres::wire::fields::Told;
use crate::workload::postgres::wire::link::{Link, Message, WireError};

/// The server waits for us as long as the coordinator makes us wait, and finds out by itself
/// when this host is gone.
const OPTIONS: &str = "-c wal_sender_timeout=0 -c statement_timeout=0 \
                       -c idle_in_transaction_session_timeout=0 -c tcp_keepalives_idle=60 \
                       -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6";
/// What a server may want for a login, by its numbers.
const DONE: u32 = 0;
const CLEAR: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;
/// How the server refuses a role that lacks REPLICATION.
const LACKS_RIGHT: &str = "42501";

/// Gets in, for the replication protocol.
///
/// # Errors
/// Who refused, and the way out.
pub(super) fn enter(link: &mut Link, dial: &Dial) -> Result<(), PgError> {
    let parameters = [
        ("user", dial.user.as_str()),
        ("database", dial.database.as_str()),
        // By a database, so that one line of pg_hba.conf lets in both kinds of session.
        ("replication", "database"),
        ("application_name", "strongroom"),
        ("client_encoding", "UTF8"),
        ("options", OPTIONS),
    ];
    say(link, |bytes| frontend::startup_message(parameters, bytes))?;
    let mut scram = None;
    loop {
        let Message { tag, body } = link.hear()?;
        match tag {
            b'R' => answer(link, dial, &body, &mut scram)?,
            b'E' => return Err(refused(&body, dial)),
            b'Z' => return Ok(()),
            b'K' | b'N' | b'S' => {}
            other => {
                return Err(link.odd(format!("{:?} during a login", char::from(other))).into());
            }
        }
    }
}

fn say(
    link: &mut Link,
    write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
) -> Result<(), WireError> {
    let mut bytes = BytesMut::new();
    write(&mut bytes).map_err(|source| link.broken(source))?;
    link.say(&bytes)
}

fn answer(
    link: &mut Link,
    dial: &Dial,
    body: &[u8],
    scram: &mut Option<ScramSha256>,
) -> Result<(), PgError> {
    let (kind, rest) = body.split_at_checked(4).ok_or_else(|| link.odd("a login without kind"))?;
    let kind = u32::from_be_bytes(kind.try_into().unwrap_or_default());
    let lacks = || PgError::Password { place: dial.place(), user: dial.user.clone() };
    let odd = |error: std::io::Error| link.odd(format!("a login that is none ({error})"));
    match kind {
        DONE => {}
        CLEAR | MD5 if dial.is_overheard() => {
            let how = if kind == CLEAR { "in the clear" } else { "by MD5" };
            let what =
                format!("it wants the password {how}; let scram-sha-256 stand in pg_hba.conf");
            return Err(link.odd(what).into());
        }
        CLEAR => {
            let password = dial.password.as_ref().ok_or_else(lacks)?;
            say(link, |bytes| frontend::password_message(password.as_bytes(), bytes))?;
        }
        MD5 => {
            let password = dial.password.as_ref().ok_or_else(lacks)?;
            let salt = rest.try_into().map_err(|_| link.odd("a login without salt"))?;
            let hash = md5_hash(dial.user.as_bytes(), password.as_bytes(), salt);
            say(link, |bytes| frontend::password_message(hash.as_bytes(), bytes))?;
        }
        SASL => {
            let mut names = rest.split(|byte| *byte == 0);
            if !names.any(|name| name == SCRAM_SHA_256.as_bytes()) {
                return Err(link.odd("it takes no password by SCRAM-SHA-256").into());
            }
            let password = dial.password.as_ref().ok_or_else(lacks)?;
            let begun = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            say(link, |bytes| {
                frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), bytes)
            })?;
            *scram = Some(begun);
        }
        SASL_CONTINUE => {
            let begun = scram.as_mut().ok_or_else(|| link.odd("the middle of a login"))?;
            begun.update(rest).map_err(odd)?;
            say(link, |bytes| frontend::sasl_response(begun.message(), bytes))?;
        }
        SASL_FINAL => {
            let mut begun = scram.take().ok_or_else(|| link.odd("the end of a login"))?;
            // By this the server shows that it knows the password, too.
            begun.finish(rest).map_err(odd)?;
        }
        other => {
            let what = format!(
                "it wants a login of kind {other}; let scram-sha-256 stand in \
                                pg_hba.conf"
            );
            return Err(link.odd(what).into());
        }
    }
    Ok(())
}

fn refused(body: &[u8], dial: &Dial) -> PgError {
    let Told { code, text } = Told::read(body);
    if code == LACKS_RIGHT {
        let user = dial.user.clone();
        let (what, grant) =
            ("stream from the server".to_owned(), format!("ALTER ROLE {user} REPLICATION"));
        return PgError::Privilege { user, what, grant };
    }
    let place = dial.place();
    PgError::of_code(&code, (&place, &dial.user), text.clone()).unwrap_or_else(|| {
        let what = "begin a session of replication (is max_wal_senders reached?)";
        WireError::Refused { what, said: text, code }.into()
    })
}
