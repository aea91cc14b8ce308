//! TLS to a server elsewhere, for its sessions and for the replication protocol: whoever answers
//! must chain to an authority that is believed and bear the name it was called by.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client};

use crate::workload::directory::tls::{TrustError, config};

/// Greets servers by the names they are called by.
pub(super) struct Greeter(Arc<ClientConfig>);

impl Greeter {
    /// Believes the authorities of a file, or those of the system.
    ///
    /// # Errors
    /// Nobody can be believed.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        Ok(Self(config(ca_file)?))
    }

    /// What a greeting needs, where no runtime does it.
    ///
    /// # Errors
    /// Not the name of a host.
    pub(super) fn parts(&self, host: &str) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        Ok((Arc::clone(&self.0), name(host)?))
    }
}

fn name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

/// Why a server was not believed, and the way out; none where it was something else.
pub(super) fn disbelief(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(reason) = error else { return None };
    Some(match reason {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name; use the name it bears in host, or put this \
             very certificate into ca_file"
                .to_owned()
        }
        CertificateError::BadSignature | CertificateError::UnknownIssuer => {
            "its certificate is of an authority that is not known here; name the authority's \
             certificate with ca_file"
                .to_owned()
        }
        other => format!("its certificate is not believed ({other}); give the server another"),
    })
}

/// What TLS said, somewhere among the causes of an error.
pub(super) fn said(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(tls) = inner.or_else(|| error.downcast_ref::<Error>()) {
            return disbelief(tls);
        }
        cause = error.source();
    }
    None
}

impl MakeTlsConnect<Socket> for Greeter {
    type Stream = Sealed;
    type TlsConnect = Greeting;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Greeting> {
        Ok(Greeting { connector: TlsConnector::from(Arc::clone(&self.0)), name: name(domain)? })
    }
}

/// One greeting.
pub(super) struct Greeting {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Greeting {
    type Stream = Sealed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Sealed>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let sealed = self.connector.connect(self.name, stream).await?;
            Ok(Sealed(Box::new(sealed)))
        })
    }
}

/// A connection whose other end was believed.
pub(super) struct Sealed(Box<client::TlsStream<Socket>>);

impl AsyncRead for Sealed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl TlsStream for Sealed {
    /// The certificate was believed: nothing more is bound to it.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
