//! Reading a parked result back, in pieces, and making sure that it is what was parked.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, stream};

use super::{Parked, blocking};
use crate::faults::{self, Point};

/// Reads a parked result once, from beginning to end.
pub struct Reader {
    source: Source,
    left: u64,
}

enum Source {
    Memory(Bytes),
    File { file: Arc<File>, expected: u32, checksum: crc32fast::Hasher },
}

/// Why a parked result cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, too short or too long, or its checksum is wrong.
    #[error("the parked result is gone: {0}")]
    Gone(&'static str),
    /// The disk failed.
    #[error("the parked result cannot be read: {}", .0.kind())]
    Disk(#[from] io::Error),
}

impl Reader {
    pub(super) async fn open(parked: &Parked) -> Result<Reader, ReadError> {
        if let Some(content) = parked.in_memory() {
            return Ok(Reader { source: Source::Memory(content.clone()), left: parked.size });
        }
        let path = parked.path.clone();
        let opened = blocking(move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        let (file, size) = opened.await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone("no such file"),
            _ => ReadError::Disk(error),
        })?;
        if size != parked.size {
            return Err(ReadError::Gone("its size is wrong"));
        }
        let checksum = crc32fast::Hasher::new();
        Ok(Reader { source: Source::File { file: Arc::new(file), expected: parked.crc, checksum }, left: size })
    }

    /// The next `length` bytes, or fewer at the end; `None` after it. The last piece is only handed
    /// out when the checksum is right.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn piece(&mut self, length: usize) -> Result<Option<Bytes>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(length);
        self.left -= wanted as u64;
        let (file, expected, checksum) = match &mut self.source {
            Source::Memory(content) => return Ok(Some(content.split_to(wanted))),
            Source::File { file, expected, checksum } => (Arc::clone(file), *expected, checksum),
        };
        let mut so_far = checksum.clone();
        let (piece, so_far) = blocking(move || {
            let mut piece = Vec::with_capacity(wanted);
            file.as_ref().take(wanted as u64).read_to_end(&mut piece)?;
            so_far.update(&piece);
            Ok((piece, so_far))
        })
        .await?;
        if piece.len() < wanted {
            return Err(ReadError::Gone("it ends early"));
        }
        *checksum = so_far;
        if self.left == 0 && checksum.clone().finalize() != expected {
            return Err(ReadError::Gone("its checksum is wrong"));
        }
        Ok(Some(piece.into()))
    }

    /// What is left, in pieces of at most `length` bytes.
    pub fn into_stream(self, length: usize) -> impl Stream<Item = Result<Bytes, ReadError>> + Send {
        stream::try_unfold(self, move |mut reader| async move {
            let piece = reader.piece(length).await?;
            faults::pass_if(reader.left > 0, Point::HalfUpload);
            Ok(piece.map(|piece| (piece, reader)))
        })
    }
}
