//! A TCP proxy in front of a server, so that a test can cut the cable to it and mend it again.

use std::sync::Arc;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::backend::TestDb;

/// See the module. Ends with the test's runtime.
pub struct Proxy {
    /// Where it listens: `127.0.0.1:port`.
    pub address: String,
    whole: Arc<watch::Sender<bool>>,
}

impl Proxy {
    /// A whole cable to `server`, which is `host:port`.
    pub async fn to(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let whole = Arc::new(watch::Sender::new(true));
        let cable = whole.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *cable.borrow() {
                    tokio::spawn(carry(near, server.clone(), cable.subscribe()));
                }
            }
        });
        Proxy { address, whole }
    }

    /// Breaks every connection and lets no new one through.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// The database of the test behind a cable, and its address there.
pub async fn behind_a_cable(db: &TestDb) -> (Proxy, String) {
    let mut url = url::Url::parse(db.url()).unwrap();
    let proxy = Proxy::to(format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432))).await;
    url.set_port(proxy.address.rsplit(':').next().unwrap().parse().ok()).unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    (proxy, url.into())
}

async fn carry(mut near: TcpStream, server: String, mut whole: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
