//! The server under the routes: connections, within limits, with or without TLS.
//!
//! What an unknown peer can make grow is bounded here: connections, the size of a request's head, and
//! the time in which it has to arrive. Bodies have their limits in `request`.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures::future::{Ready, ready};
use hyper_util::rt::TokioTimer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{ApiState, router};
use crate::config::{Limits, TlsFiles};

/// How often the files are looked at for newer ones.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(30);

/// A certificate and its key, read and found usable.
pub struct Tls {
    files: TlsFiles,
    config: RustlsConfig,
    loaded: Stamps,
}

/// When certificate and key were changed last. Both count: whoever renews them writes one first.
type Stamps = [Option<SystemTime>; 2];

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// Where one cannot be read, or they do not belong together.
    pub async fn load(files: &TlsFiles) -> anyhow::Result<Tls> {
        let loaded = stamps(files).await;
        let config = RustlsConfig::from_pem_file(&files.certificate, &files.key).await?;
        Ok(Tls { files: files.clone(), config, loaded })
    }

    /// Takes a new certificate when there is one, for as long as the server runs. One that cannot be
    /// used is said once and leaves the old one in place.
    async fn keep_fresh(mut self) {
        loop {
            tokio::time::sleep(CERTIFICATE_CHECK).await;
            self.refresh().await;
        }
    }

    async fn refresh(&mut self) {
        let found = stamps(&self.files).await;
        if found == self.loaded {
            return;
        }
        self.loaded = found;
        match self.config.reload_from_pem_file(&self.files.certificate, &self.files.key).await {
            Ok(()) => info!("took the new certificate of server.tlsCertFile"),
            Err(error) => error!(%error, "the new certificate cannot be used, the old one stays"),
        }
    }
}

async fn stamps(files: &TlsFiles) -> Stamps {
    let modified = async |file: &Path| tokio::fs::metadata(file).await.ok()?.modified().ok();
    [modified(&files.certificate).await, modified(&files.key).await]
}

/// Serves until `stop`, then lets requests under way end.
pub async fn serve(listener: TcpListener, state: ApiState, tls: Option<Tls>, stop: CancellationToken) {
    let handle = Handle::new();
    let stopped = async {
        stop.cancelled().await;
        handle.graceful_shutdown(None);
        // The server returns by itself now.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = listen(listener, state, tls, handle.clone()) => if let Err(error) = served {
            error!(%error, "the http server failed");
        },
        () = stopped => {}
    }
}

async fn listen(
    listener: TcpListener,
    state: ApiState,
    tls: Option<Tls>,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let limits = state.config.limits.clone();
    let mut server = axum_server::from_tcp(listener.into_std()?)?.handle(handle);
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_time).max_buf_size(limits.header_bytes);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_time)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    let seats = Seats::new(&limits);
    // The operation log wants to know where a call came from.
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        None => server.acceptor(seats).serve(service).await,
        Some(tls) => {
            let acceptor =
                RustlsAcceptor::new(tls.config.clone()).handshake_timeout(limits.header_time).acceptor(seats);
            tokio::select! {
                served = server.acceptor(acceptor).serve(service) => served,
                () = tls.keep_fresh() => Ok(()),
            }
        }
    }
}

/// Places for connections. One too many is closed at once: the peer sees that and tries elsewhere
/// or later, while the others are served.
#[derive(Clone)]
struct Seats {
    free: Arc<Semaphore>,
    full: Arc<AtomicBool>,
}

/// A connection with its place.
struct Seated {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Seats {
    fn new(limits: &Limits) -> Seats {
        Seats { free: Arc::new(Semaphore::new(limits.connections)), full: Arc::default() }
    }
}

impl<S> Accept<TcpStream, S> for Seats {
    type Stream = Seated;
    type Service = S;
    type Future = Ready<io::Result<(Seated, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // An answer is one write; nothing is won by waiting for more.
        stream.set_nodelay(true).ok();
        let place = self.free.clone().try_acquire_owned();
        let was_full = self.full.swap(place.is_err(), Ordering::Relaxed);
        if place.is_err() && !was_full {
            warn!("limits.connections is reached, further connections are closed until others end");
        }
        ready(place.map(|place| (Seated { stream, _place: place }, service)).map_err(io::Error::other))
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file, and gives it a time of its own, whatever the file system's clock can tell apart.
    fn write(file: &Path, text: &str, seconds: u64) {
        std::fs::write(file, text).unwrap();
        let times = std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        std::fs::File::options().write(true).open(file).unwrap().set_times(times).unwrap();
    }

    #[tokio::test]
    async fn a_new_certificate_is_taken_when_its_key_is_there_too() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let pair = |name: &str| {
            let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            (signed.cert.pem(), signed.signing_key.serialize_pem())
        };
        let ((old_cert, old_key), (new_cert, new_key)) = (pair("old"), pair("new"));
        write(&files.certificate, &old_cert, 1);
        write(&files.key, &old_key, 1);
        let mut tls = Tls::load(&files).await.unwrap();
        let old = tls.config.get_inner();
        tls.refresh().await;
        assert!(Arc::ptr_eq(&old, &tls.config.get_inner()), "nothing is new");
        write(&files.certificate, &new_cert, 2);
        tls.refresh().await;
        assert!(Arc::ptr_eq(&old, &tls.config.get_inner()), "the key is still the old one's");
        write(&files.key, &new_key, 3);
        tls.refresh().await;
        assert!(!Arc::ptr_eq(&old, &tls.config.get_inner()));
    }
}
