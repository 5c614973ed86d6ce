//! How `asynch_task.oss_key` is written: where the URL in `oss_file` ends in the object's key, as the
//! number of bytes at that end, else as it is. So neither the row nor the log carries it twice. Keys
//! have slashes, as [`StoredFile`] says, and are no numbers.

use std::borrow::Cow;

use crate::task::lifecycle::StoredFile;

/// The column's text.
pub(in crate::store) fn written(stored: &StoredFile) -> Cow<'_, str> {
    let key = &stored.oss_key;
    match stored.oss_file.ends_with(key.as_str()) && !key.is_empty() {
        true => key.len().to_string().into(),
        false => key.into(),
    }
}

/// The key that the two columns name.
pub(in crate::store) fn read(oss_file: &str, oss_key: String) -> String {
    let tail = |bytes: usize| oss_file.get(oss_file.len().checked_sub(bytes)?..);
    match oss_key.parse().ok().and_then(tail) {
        Some(key) => key.to_owned(),
        None => oss_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_as_it_was() {
        let url = "https://asynch.example/file/7/20251122/日-1-b.wav";
        for (oss_file, oss_key, column) in [
            (url, "7/20251122/日-1-b.wav", "22"),
            (url, url, "50"),
            (url, "7/20251122/a-1-b.wav", "7/20251122/a-1-b.wav"),
            (url, "", ""),
            ("", "7/20251122/a-1-b.wav", "7/20251122/a-1-b.wav"),
            ("", "", ""),
        ] {
            let (oss_file, oss_key) = (oss_file.to_owned(), oss_key.to_owned());
            let stored = StoredFile { oss_file, oss_key, file_type: "wav".into(), file_size: 1 };
            assert_eq!(written(&stored), column);
            assert_eq!(read(&stored.oss_file, written(&stored).into_owned()), stored.oss_key);
        }
    }

    #[test]
    fn what_no_version_wrote_is_no_reason_to_fail() {
        for column in ["99", "-1", "4", "18446744073709551616"] {
            assert_eq!(read("日本", column.to_owned()), column);
        }
    }
}
