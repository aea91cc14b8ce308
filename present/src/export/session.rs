//! One client: the haggling, encryption where it is demanded, and then requests, many under way
//! at once. Promises an end whatever the client does: what is begun and not gone on with times
//! out, and what is under way is bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use strongroom_certs::PeerError;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::carry::Errand;
use super::device::Device;
use super::haggle::{Agreed, Begun, Broken, Haggle, Next, Offer, Secrecy};
use super::option::OPTION_HEAD_BYTES;
use super::order::{Order, REQUEST_BYTES, Request};
use super::reply::Style;
use super::server::Shared;

/// How long haggling may take in all: a person does not type it.
const HAGGLING: Duration = Duration::from_secs(20);
/// How long a client may take over the rest of a request, or over taking any of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of requests and answers under way for one client: the longest request, twice.
const ROOM_BYTES: u32 = 64 << 20;
/// What a request takes of it at least: so many thousand requests are under way at most.
const REQUEST_ROOM_BYTES: u32 = 32 << 10;
/// Answers that wait to be sent: as many as find room, so that none holds up who made it.
const ANSWERS_MAX: usize = (ROOM_BYTES / REQUEST_ROOM_BYTES) as usize;
/// Bytes read at once from a client that sends many small requests.
const READ_BYTES: usize = 64 << 10;

/// Why a conversation ended other than in order.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the connection broke")]
    Connection(#[from] io::Error),
    #[error("the client shows no certificate of an operator or of a node that was named")]
    Forbidden(#[source] Option<PeerError>),
    #[error("the client did not go on within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the client and this server do not agree on encryption")]
    Tls(#[source] io::Error),
}

/// How haggling ended.
enum Haggled {
    Ended,
    Served(Agreed),
    StartTls,
}

/// Serves one client to its end.
pub(super) async fn serve<S>(mut stream: S, shared: &Arc<Shared>) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let offers: Vec<Offer> = shared.devices.iter().map(|device| device.offer().clone()).collect();
    let secrecy = if shared.guarded.is_some() { Secrecy::Wanted } else { Secrecy::Plain };
    let mut haggle = Haggle::new(&offers, secrecy);
    let haggled = haggled(shared, greeted(&mut stream, &mut haggle)).await?;
    match (haggled, &shared.guarded) {
        (Haggled::Served(agreed), _) => transmit(stream, agreed, shared).await,
        (Haggled::StartTls, Some(guarded)) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&guarded.config));
            let accepted = timeout(HAGGLING, acceptor.accept(stream)).await;
            let accepted = accepted.map_err(|_| SessionError::Silent(HAGGLING))?;
            let mut stream = accepted.map_err(SessionError::Tls)?;
            guarded.admit(stream.get_ref().1.peer_certificates())?;
            haggle.encrypted();
            match self::haggled(shared, options(&mut stream, &mut haggle)).await? {
                Haggled::Served(agreed) => transmit(stream, agreed, shared).await,
                Haggled::Ended | Haggled::StartTls => Ok(()),
            }
        }
        (Haggled::Ended | Haggled::StartTls, _) => Ok(()),
    }
}

/// Haggling, for as long as it may take and the server is there.
async fn haggled(
    shared: &Shared,
    haggling: impl Future<Output = Result<Haggled, SessionError>>,
) -> Result<Haggled, SessionError> {
    tokio::select! {
        haggled = within(HAGGLING, haggling) => haggled,
        () = shared.stop.cancelled() => Ok(Haggled::Ended),
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    timeout(limit, work).await.unwrap_or(Err(SessionError::Silent(limit)))
}

/// From the greeting on.
async fn greeted<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    haggle: &mut Haggle<'_>,
) -> Result<Haggled, SessionError> {
    stream.write_all(&Haggle::greeting()).await?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).await?;
    haggle.client_flags(flags)?;
    options(stream, haggle).await
}

async fn options<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    haggle: &mut Haggle<'_>,
) -> Result<Haggled, SessionError> {
    loop {
        let mut head = [0; OPTION_HEAD_BYTES];
        if let Err(error) = stream.read_exact(&mut head).await {
            // A client that only wanted to know goes without a word.
            let gone = error.kind() == io::ErrorKind::UnexpectedEof;
            return if gone { Ok(Haggled::Ended) } else { Err(error.into()) };
        }
        let answer = match haggle.begins(&head)? {
            Begun::TooLong(answer) => answer,
            Begun::Data { option, length } => {
                let mut data = vec![0; length as usize];
                stream.read_exact(&mut data).await?;
                haggle.option(option, &data)
            }
        };
        stream.write_all(&answer.bytes).await?;
        stream.flush().await?;
        match answer.next {
            Next::Option => {}
            Next::End => return Ok(Haggled::Ended),
            Next::StartTls => return Ok(Haggled::StartTls),
            Next::Transmit(agreed) => return Ok(Haggled::Served(agreed)),
        }
    }
}

/// An answer on its way, with the room it takes.
struct Outgoing {
    parts: Vec<Bytes>,
    _room: OwnedSemaphorePermit,
}

/// Requests and their answers, until the client goes or the server ends.
async fn transmit<S>(stream: S, agreed: Agreed, shared: &Arc<Shared>) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(device) = shared.devices.get(agreed.offer).cloned() else { return Ok(()) };
    shared.tally.connected();
    let (reader, writer) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let mut sending = JoinSet::new();
    sending.spawn(send(writer, queue));
    let reader = BufReader::with_capacity(READ_BYTES, reader);
    let heard = tokio::select! {
        heard = hear(reader, agreed, &device, shared, answers) => heard,
        // Nobody takes answers any more; what is under way ends by itself.
        sent = sending.join_next() => return flatten(sent),
    };
    // What is under way is answered before the connection goes.
    let sent = flatten(sending.join_next().await);
    heard.and(sent)
}

fn flatten(
    sent: Option<Result<Result<(), SessionError>, tokio::task::JoinError>>,
) -> Result<(), SessionError> {
    match sent {
        Some(Ok(sent)) => sent,
        Some(Err(error)) => Err(io::Error::other(error).into()),
        None => Ok(()),
    }
}

/// Takes requests, and has each carried out where it keeps nobody else waiting.
async fn hear<R: AsyncRead + Unpin>(
    mut reader: BufReader<R>,
    agreed: Agreed,
    device: &Arc<Device>,
    shared: &Arc<Shared>,
    answers: mpsc::Sender<Outgoing>,
) -> Result<(), SessionError> {
    let style = if agreed.structured { Style::Structured } else { Style::Simple };
    let room = Arc::new(Semaphore::new(ROOM_BYTES as usize));
    let mut under_way = JoinSet::new();
    loop {
        let waiting = tokio::select! {
            waiting = reader.fill_buf() => waiting?,
            () = shared.stop.cancelled() => break,
        };
        if waiting.is_empty() {
            break;
        }
        let mut bytes = [0; REQUEST_BYTES];
        within(SILENCE, read(&mut reader, &mut bytes)).await?;
        let request = Request::parse(&bytes)?;
        let mut payload = Vec::new();
        let payload_bytes = request.payload_bytes()?;
        let order = request.order(&agreed);
        if order == Ok(Order::Disconnect) {
            break;
        }
        let wanted = match &order {
            Ok(Order::Read { length, .. }) => *length,
            _ => payload_bytes,
        };
        let taken = wanted.clamp(REQUEST_ROOM_BYTES, ROOM_BYTES);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(taken).await else { break };
        if payload_bytes > 0 {
            payload = vec![0; payload_bytes as usize];
            within(SILENCE, read(&mut reader, &mut payload)).await?;
        }
        let errand = Errand { style, cookie: request.cookie, order, payload };
        let (device, shared) = (Arc::clone(device), Arc::clone(shared));
        let answers = answers.clone();
        under_way.spawn_blocking(move || {
            let parts = errand.carry_out(&device, &shared.tally);
            // Nobody takes it where the client has gone.
            let _ = answers.blocking_send(Outgoing { parts, _room: permit });
        });
        while under_way.try_join_next().is_some() {}
    }
    drop(answers);
    while under_way.join_next().await.is_some() {}
    Ok(())
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
    into: &mut [u8],
) -> Result<(), SessionError> {
    reader.read_exact(into).await?;
    Ok(())
}

/// Sends answers as they come.
async fn send<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut answers: mpsc::Receiver<Outgoing>,
) -> Result<(), SessionError> {
    while let Some(Outgoing { parts, _room }) = answers.recv().await {
        let mut parts = Parts(parts.into_iter().filter(|part| !part.is_empty()).collect());
        while parts.has_remaining() {
            let sent = timeout(SILENCE, writer.write_buf(&mut parts)).await;
            if sent.map_err(|_| SessionError::Silent(SILENCE))?? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        if answers.is_empty() {
            let flushed = timeout(SILENCE, writer.flush()).await;
            flushed.map_err(|_| SessionError::Silent(SILENCE))??;
        }
    }
    timeout(SILENCE, writer.shutdown()).await.map_err(|_| SessionError::Silent(SILENCE))??;
    Ok(())
}

/// The pieces of an answer, written in as few calls as the system takes.
struct Parts(VecDeque<Bytes>);

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| &part[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.0.iter().filter(|part| !part.is_empty());
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.0.front_mut() {
            if part.len() > count {
                part.advance(count);
                return;
            }
            count -= part.len();
            self.0.pop_front();
        }
    }
}
