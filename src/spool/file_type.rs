//! What kind of file a result is: a short extension such as `wav`, from its first bytes, then from
//! the `Content-Type` that came with it; and back from the extension to a `Content-Type`.

/// How many first bytes [`detect`] looks at.
pub const HEAD: usize = 512;

/// Where nothing is known.
const UNKNOWN: &str = "bin";

/// Longest extension that is kept.
const MAX_EXTENSION: usize = 16;

/// Extensions and their media types, the one that is sent out first. Only what models commonly
/// make; other extensions are looked up in a general table.
const TYPES: &[(&str, &[&str])] = &[
    ("json", &["application/json", "text/json"]),
    ("jsonl", &["application/jsonl", "application/x-ndjson", "application/ndjson", "application/x-jsonlines"]),
    ("txt", &["text/plain"]),
    ("html", &["text/html", "application/xhtml+xml"]),
    ("md", &["text/markdown"]),
    ("csv", &["text/csv"]),
    ("xml", &["application/xml", "text/xml"]),
    ("srt", &["application/x-subrip"]),
    ("vtt", &["text/vtt"]),
    ("wav", &["audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"]),
    ("mp3", &["audio/mpeg", "audio/mp3"]),
    ("ogg", &["audio/ogg", "application/ogg", "video/ogg"]),
    ("opus", &["audio/opus"]),
    ("flac", &["audio/flac", "audio/x-flac"]),
    ("aac", &["audio/aac"]),
    ("m4a", &["audio/mp4", "audio/m4a", "audio/x-m4a"]),
    ("pcm", &["audio/pcm", "audio/l16"]),
    ("mp4", &["video/mp4"]),
    ("webm", &["video/webm", "audio/webm"]),
    ("mov", &["video/quicktime"]),
    ("mkv", &["video/x-matroska"]),
    ("avi", &["video/x-msvideo"]),
    ("png", &["image/png"]),
    ("jpg", &["image/jpeg", "image/jpg"]),
    ("gif", &["image/gif"]),
    ("webp", &["image/webp"]),
    ("bmp", &["image/bmp"]),
    ("tif", &["image/tiff"]),
    ("svg", &["image/svg+xml"]),
    ("pdf", &["application/pdf"]),
    ("zip", &["application/zip", "application/x-zip-compressed"]),
    ("gz", &["application/gzip", "application/x-gzip"]),
    ("tar", &["application/x-tar"]),
    ("npy", &["application/x-npy"]),
    ("glb", &["model/gltf-binary"]),
    ("bin", &["application/octet-stream"]),
];

/// Types known by so few bytes that chance alone produces them in raw samples or floats: they
/// count only where the `Content-Type` says nothing and the content does not read as text.
const TWO_BYTES: [&str; 7] = ["bmp", "exe", "dll", "bc", "obj", "der", "ico"];

/// Types known by a few letters that a text may well begin with, such as "GIF is a format".
const FEW_LETTERS: [&str; 4] = ["gif", "mp3", "bz2", "swf"];

/// The type of a result that begins with `head` and came with `content_type`.
///
/// The bytes win, because a label may lie (some speech servers call their WAV `text/html`).
pub fn detect(head: &[u8], content_type: Option<&str>) -> String {
    let magic = infer::get(head).map(|kind| kind.extension());
    let labelled = || content_type.and_then(extension);
    let readable = reads_as_text(head);
    let found = match magic {
        // Every SVG is XML, and only the label tells.
        Some("xml") => labelled().filter(|label| label == "svg").or_else(|| Some("xml".to_owned())),
        Some(weak) if TWO_BYTES.contains(&weak) => {
            labelled().or_else(|| text_type(head)).or_else(|| Some(weak.to_owned()))
        }
        Some(letters) if FEW_LETTERS.contains(&letters) && readable => labelled().or_else(|| text_type(head)),
        Some(known) => Some(known.to_ascii_lowercase()),
        None => labelled().or_else(|| text_type(head)),
    };
    found.filter(|name| is_extension(name)).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// The media type to send for a file with this extension.
pub fn content_type(extension: &str) -> &'static str {
    TYPES
        .iter()
        .find(|(name, _)| *name == extension)
        .and_then(|(_, types)| types.first().copied())
        .or_else(|| mime_guess::from_ext(extension).first_raw())
        .unwrap_or("application/octet-stream")
}

/// Whether `name` may be the extension in a file's name.
pub fn is_extension(name: &str) -> bool {
    (1..=MAX_EXTENSION).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The extension that a `Content-Type` stands for; nothing for one that only says "bytes".
fn extension(content_type: &str) -> Option<String> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if let Some((name, _)) = TYPES.iter().find(|(_, types)| types.contains(&essence.as_str())) {
        return (*name != UNKNOWN).then(|| (*name).to_owned());
    }
    let (kind, subtype) = essence.split_once('/')?;
    let (_, suffix) = subtype.rsplit_once('+').unwrap_or(("", ""));
    match (kind, suffix) {
        (_, "json" | "xml" | "zip") => Some(suffix.to_owned()),
        ("text", _) => Some("txt".to_owned()),
        ("image" | "audio" | "video" | "font", _) => {
            let name = subtype.strip_prefix("x-").unwrap_or(subtype);
            is_extension(name).then(|| name.to_owned())
        }
        _ => None,
    }
}

/// `json` or `txt` for what reads as text.
fn text_type(head: &[u8]) -> Option<String> {
    let json = matches!(head.trim_ascii_start().first(), Some(b'{' | b'['));
    reads_as_text(head).then(|| if json { "json" } else { "txt" }.to_owned())
}

/// UTF-8 without control characters; the last character may be cut off, as `head` is a beginning.
fn reads_as_text(head: &[u8]) -> bool {
    let whole = match std::str::from_utf8(head) {
        Ok(_) => head.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return false,
    };
    whole > 0 && !head.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace() && *byte != 0x1b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAV: &[u8] = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00";

    #[test]
    fn first_bytes_win_then_the_label_then_what_reads_as_text() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
        let cases: &[(&[u8], Option<&str>, &str)] = &[
            (png, None, "png"),
            (png, Some("application/json"), "png"),
            (WAV, Some("text/html; charset=utf-8"), "wav"),
            (b"ID3\x03\0\0\0\0\0\x21", Some("application/octet-stream"), "mp3"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0", None, "jpg"),
            (b"GIF89a\x01\0\x01\0", None, "gif"),
            (b"OggS\0\x02", None, "ogg"),
            (b"fLaC\0\0\0\x22", None, "flac"),
            (mp4, None, "mp4"),
            (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", None, "pdf"),
            (b"PK\x03\x04\x14\0\0\0", None, "zip"),
            (b"\x1f\x8b\x08\0", None, "gz"),
            (b"<!DOCTYPE html><html>", None, "html"),
            (b"{\"a\":1}", Some("application/json"), "json"),
            (b"{\"a\":1}", Some("application/problem+json; charset=utf-8"), "json"),
            (b"{\"a\":1}\n{\"a\":2}", Some("application/x-ndjson"), "jsonl"),
            (b"{\"a\":1}", None, "json"),
            (b" \n[1]", Some("application/octet-stream"), "json"),
            (b"{\"a\":1}", Some("text/plain"), "txt"),
            (b"hello", None, "txt"),
            ("größer".as_bytes(), None, "txt"),
            (b"data: x\n\n", Some("text/event-stream"), "txt"),
            (b"\0\x01\x02\x03", Some("audio/wav"), "wav"),
            (b"\0\x01\x02\x03", Some("Image/X-Exotic"), "exotic"),
            (b"\0\x01\x02\x03", Some("image/../../etc"), "bin"),
            (b"\0\x01\x02\x03", Some("application/x-tensor"), "bin"),
            (b"\0\x01\x02\x03", Some("application/octet-stream"), "bin"),
            (b"\0\x01\x02\x03", Some("nonsense"), "bin"),
            (b"\0\x01\x02\x03", None, "bin"),
            (b"", Some("audio/mpeg"), "mp3"),
            (b"", None, "bin"),
        ];
        for (head, content_type, expected) in cases {
            assert_eq!(detect(head, *content_type), *expected, "{head:?} as {content_type:?}");
        }
    }

    #[test]
    fn a_few_letters_or_two_bytes_of_chance_are_no_magic() {
        let cases: &[(&[u8], Option<&str>, &str)] = &[
            (b"BMW builds cars", None, "txt"),
            (b"BMW builds cars", Some("text/markdown"), "md"),
            (b"GIF is a format", None, "txt"),
            (b"ID3 tags are old", Some("text/plain"), "txt"),
            (b"MZ is how they begin", None, "txt"),
            (b"\0\x02\x01\0\x05\xff", Some("audio/pcm;rate=22050"), "pcm"),
            (b"BM\x36\0\x0c\0\0\0\0\0", None, "bmp"),
        ];
        for (head, content_type, expected) in cases {
            assert_eq!(detect(head, *content_type), *expected, "{head:?} as {content_type:?}");
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_of_the_head_is_still_text() {
        let text = "é".repeat(HEAD);
        assert_eq!(detect(&text.as_bytes()[..HEAD - 1], None), "txt");
        assert_eq!(detect(b"a\xe9b", None), "bin", "Latin-1 is not told from bytes");
    }

    #[test]
    fn svg_is_told_from_other_xml_by_its_label() {
        let xml = b"<?xml version=\"1.0\"?><svg/>";
        assert_eq!(detect(xml, Some("image/svg+xml")), "svg");
        assert_eq!(detect(xml, Some("text/html")), "xml");
    }

    #[test]
    fn every_extension_has_a_media_type() {
        for (extension, expected) in [
            ("wav", "audio/wav"),
            ("json", "application/json"),
            ("html", "text/html"),
            ("bin", "application/octet-stream"),
            ("7z", "application/x-7z-compressed"),
            ("nobodyknows", "application/octet-stream"),
        ] {
            assert_eq!(content_type(extension), expected);
        }
        assert!(TYPES.iter().all(|(name, types)| is_extension(name) && !types.is_empty()));
    }

    proptest! {
        #[test]
        fn every_file_has_a_type_that_fits_its_name(
            head in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..HEAD),
                any::<String>().prop_map(String::into_bytes),
            ],
            content_type in prop::option::of(prop_oneof![
                any::<String>(),
                "(image|audio|text|[a-zA-Z]{1,8})/[a-z0-9.+/-]{0,30}(; ?[a-z=]*)?",
            ]),
        ) {
            let name = detect(&head, content_type.as_deref());
            prop_assert!(is_extension(&name), "{name}");
            prop_assert!(super::content_type(&name).is_ascii());
        }
    }
}
