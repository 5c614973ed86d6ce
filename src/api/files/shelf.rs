//! The storage's folder as `tower-http` looks at it, so that a result is served in the same way
//! (ranges, conditions, HEAD) whether it has a file of its own or shares one.

use std::{
    fs,
    io::{self, Cursor, SeekFrom},
    path::{Component, Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use axum::body::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncSeek, ReadBuf},
    task::spawn_blocking,
};
use tower_http::services::fs::{Backend, File, Metadata};

use crate::storage::fs::{FsStorage, Opened};

/// Where results lie.
#[derive(Clone)]
pub(super) struct Shelf(pub(super) FsStorage);

/// An opened result.
pub(super) enum Item {
    File(tokio::fs::File, About),
    Record(Cursor<Bytes>, About),
}

/// What is known of a result before it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    is_folder: bool,
    stored_at: SystemTime,
    length: u64,
}

impl Shelf {
    fn look(&self, path: &Path) -> BoxFuture<'static, io::Result<Item>> {
        let storage = self.0.clone();
        let key = key(path);
        let look = spawn_blocking(move || match storage.look(&key?)? {
            Opened::File(file) => {
                let about = About::of(&file.metadata()?)?;
                Ok(Item::File(file.into(), about))
            }
            Opened::Record { content, stored_at } => {
                let about = About { is_folder: false, stored_at, length: content.len() as u64 };
                Ok(Item::Record(Cursor::new(content), about))
            }
        });
        async move { look.await.map_err(io::Error::other)? }.boxed()
    }
}

/// The key that a path below the folder stands for; nothing else comes from `tower-http`.
fn key(path: &Path) -> io::Result<String> {
    let parts: Option<Vec<_>> = path
        .components()
        .filter_map(|part| match part {
            Component::CurDir => None,
            Component::Normal(name) => Some(name.to_str()),
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => Some(None),
        })
        .collect();
    parts.map(|parts| parts.join("/")).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Backend for Shelf {
    type File = Item;
    type Metadata = About;
    type OpenFuture = BoxFuture<'static, io::Result<Item>>;
    type MetadataFuture = BoxFuture<'static, io::Result<About>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        self.look(&path)
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let look = self.look(&path);
        async move { Ok(look.await?.about()) }.boxed()
    }
}

impl Item {
    fn about(&self) -> About {
        match self {
            Item::File(_, about) | Item::Record(_, about) => *about,
        }
    }
}

impl File for Item {
    type Metadata = About;
    type MetadataFuture<'a> = std::future::Ready<io::Result<About>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.about()))
    }
}

impl AsyncRead for Item {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Item::File(file, _) => Pin::new(file).poll_read(cx, buf),
            Item::Record(content, _) => Pin::new(content).poll_read(cx, buf),
        }
    }
}

impl AsyncSeek for Item {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        match self.get_mut() {
            Item::File(file, _) => Pin::new(file).start_seek(position),
            Item::Record(content, _) => Pin::new(content).start_seek(position),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match self.get_mut() {
            Item::File(file, _) => Pin::new(file).poll_complete(cx),
            Item::Record(content, _) => Pin::new(content).poll_complete(cx),
        }
    }
}

impl About {
    fn of(found: &fs::Metadata) -> io::Result<About> {
        Ok(About { is_folder: found.is_dir(), stored_at: found.modified()?, length: found.len() })
    }
}

impl Metadata for About {
    fn is_dir(&self) -> bool {
        self.is_folder
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(self.stored_at)
    }

    fn len(&self) -> u64 {
        self.length
    }
}
