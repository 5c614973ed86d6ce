//! The headers that a model wants, written as one line: `Key:Value,Key2:Value2`.
//!
//! `Key=Value` works too: the first `:` or `=` divides. A value in double quotes keeps its commas
//! and loses the quotes. Answers show the names only: `Key:****`.

use std::fmt;

/// Most characters in the written line.
pub const MAX_LENGTH: usize = 1024;

/// What stands in for a value that is not shown.
pub const MASK: &str = "****";

/// Names and values, in the order written. `Debug` and `Display` mask the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Reads the written line.
    ///
    /// # Errors
    /// Says what is wrong, without repeating a value.
    pub fn parse(written: &str) -> Result<Headers, String> {
        if written.chars().count() > MAX_LENGTH {
            return Err(format!("must have at most {MAX_LENGTH} characters"));
        }
        if written.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        let mut pairs = Vec::new();
        for part in split_outside_quotes(written)? {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let divider = part
                .find([':', '='])
                .ok_or_else(|| "must be written Key:Value, several divided by commas".to_owned())?;
            let (name, value) = (part[..divider].trim(), part[divider + 1..].trim());
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err("has a header name that is empty or has characters HTTP does not allow".to_owned());
            }
            if !value.is_ascii() {
                return Err(format!("has a value for {name} that is not ASCII"));
            }
            let value = unquoted(value);
            if value.contains('"') && needs_quotes(value) {
                return Err(format!("has a value for {name} with double quotes inside quotes"));
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Ok(Headers(pairs))
    }

    /// These headers, with every value `****` replaced by what `stored` has under that name.
    ///
    /// # Errors
    /// Where a masked name has no stored value.
    pub fn with_masked_kept(mut self, stored: &Headers) -> Result<Headers, String> {
        for (name, value) in &mut self.0 {
            if value == MASK {
                // Of a name that is there twice the last value is the one that is sent.
                let (_, kept) = stored
                    .0
                    .iter()
                    .rfind(|(stored_name, _)| stored_name.eq_ignore_ascii_case(name))
                    .ok_or_else(|| format!("has {MASK} for {name}, but no value is stored under that name"))?;
                value.clone_from(kept);
            }
        }
        if self.written().chars().count() > MAX_LENGTH {
            return Err(format!("must have at most {MAX_LENGTH} characters, kept values included"));
        }
        Ok(self)
    }

    /// Names and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The line that [`Headers::parse`] reads back to the same pairs, values in clear: for the
    /// database only.
    pub fn written(&self) -> String {
        self.joined(|value| if needs_quotes(value) { format!("\"{value}\"") } else { value.to_owned() })
    }

    /// The line with names only, for answers and logs.
    pub fn masked(&self) -> String {
        self.joined(|_| MASK.to_owned())
    }

    /// `text` with every value that occurs in it masked: a model may echo its own key.
    pub fn mask_in(&self, text: &str) -> String {
        // Short values such as `true` are settings, not secrets; masking them would garble messages.
        let secrets = self.0.iter().map(|(_, value)| value.as_str()).filter(|value| value.len() >= 6);
        secrets.fold(text.to_owned(), |text, secret| {
            let bare = secret.rsplit(' ').next().filter(|last| last.len() >= 6).unwrap_or(secret);
            text.replace(bare, MASK)
        })
    }

    fn joined(&self, value: impl Fn(&str) -> String) -> String {
        let parts: Vec<String> = self.0.iter().map(|(name, v)| format!("{name}:{}", value(v))).collect();
        parts.join(",")
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

fn split_outside_quotes(written: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, c) in written.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&written[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err("has a double quote that is not closed".to_owned());
    }
    parts.push(&written[start..]);
    Ok(parts)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

fn needs_quotes(value: &str) -> bool {
    value.contains(',') || value.starts_with('"') || value.trim() != value
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(written: &str) -> Vec<(String, String)> {
        Headers::parse(written).unwrap().0
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_first_colon_or_equals_sign_divides() {
        assert_eq!(
            pairs("API_KEY:model-key,API_STATE=true"),
            [pair("API_KEY", "model-key"), pair("API_STATE", "true")]
        );
        assert_eq!(pairs("Authorization:Bearer a=b:c"), [pair("Authorization", "Bearer a=b:c")]);
        assert_eq!(pairs("X=a:b"), [pair("X", "a:b")]);
    }

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(pairs("A:\"x, y\",B:z"), [pair("A", "x, y"), pair("B", "z")]);
    }

    #[test]
    fn nothing_written_is_no_headers() {
        for written in ["", "  ", ",", " , ,"] {
            assert!(pairs(written).is_empty(), "{written:?}");
        }
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        for written in ["nothing", ":x", "A B:c", "Ä:x", "A:ä", "A:b\r\nC:d", "A:\"open", "A:b\u{7f}", "A:a\"b,c\"d"]
        {
            assert!(Headers::parse(written).is_err(), "{written:?}");
        }
        assert!(Headers::parse(&format!("A:{}", "x".repeat(MAX_LENGTH))).is_err());
    }

    #[test]
    fn writing_and_reading_are_inverse() {
        for written in ["A:b", "A:\"x, y\",B:z", "Authorization:Bearer t0k", "A:", "A:a\"b\"c", "A:\"\"", "A:\" x \""] {
            let headers = Headers::parse(written).unwrap();
            assert_eq!(Headers::parse(&headers.written()).unwrap(), headers, "{written}");
        }
    }

    #[test]
    fn values_are_never_shown() {
        let headers = Headers::parse("A:secret1,B:\"secret2,x\"").unwrap();
        assert_eq!(headers.masked(), "A:****,B:****");
        assert_eq!(format!("{headers:?}"), "A:****,B:****");
    }

    #[test]
    fn a_masked_value_keeps_the_stored_one() {
        let stored = Headers::parse("A:one,B:two").unwrap();
        let sent = Headers::parse("a:****,C:three").unwrap().with_masked_kept(&stored).unwrap();
        assert_eq!(sent.written(), "a:one,C:three");
        assert!(Headers::parse("D:****").unwrap().with_masked_kept(&stored).is_err());
        let twice = Headers::parse("A:one,a:two").unwrap();
        let sent = Headers::parse("A:****").unwrap().with_masked_kept(&twice).unwrap();
        assert_eq!(sent.written(), "A:two", "the last one is what was sent to the model");
        let long = Headers::parse(&format!("A:{}", "x".repeat(1000))).unwrap();
        let longer = Headers::parse(&format!("A:****,B:{}", "y".repeat(1000))).unwrap();
        assert!(longer.with_masked_kept(&long).is_err(), "what is stored must be readable again");
    }

    #[test]
    fn an_echoed_key_is_masked() {
        let headers = Headers::parse("Authorization:Bearer sk-123456,X-Flag:true").unwrap();
        assert_eq!(headers.mask_in("bad key sk-123456, true"), "bad key ****, true");
    }

    /// Lines that are often read, unlike arbitrary ones.
    fn lines() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), r#"([A-Za-z-]{1,3}[:=]["a-z, =:*]{0,6},? ?){0,4}"#]
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_reads_back(line in lines()) {
            if let Ok(headers) = Headers::parse(&line) {
                prop_assert_eq!(Headers::parse(&headers.written()), Ok(headers));
            }
        }

        #[test]
        fn whatever_the_values_are_none_is_shown(values in prop::collection::vec("[0-9a-f]{6,40}", 1..5)) {
            let written: Vec<String> = values.iter().map(|value| format!("X-Key:Bearer {value}")).collect();
            let headers = Headers::parse(&written.join(",")).unwrap();
            let echoed = headers.mask_in(&format!("refused {}", values.join("; ")));
            for value in &values {
                let shown = format!("{:?} {}", headers, headers.masked());
                prop_assert!(!shown.contains(value), "{shown}");
                prop_assert!(!echoed.contains(value), "{echoed}");
            }
        }

        #[test]
        fn saving_what_was_shown_changes_nothing_that_is_sent(line in lines()) {
            fn sent(headers: &Headers) -> std::collections::BTreeMap<String, &str> {
                headers.pairs().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
            }
            if let Ok(stored) = Headers::parse(&line) {
                match Headers::parse(&stored.masked()).and_then(|shown| shown.with_masked_kept(&stored)) {
                    Ok(saved) => prop_assert_eq!(sent(&saved), sent(&stored)),
                    // Of masks as long as that: `A:,A:,A:` and so on.
                    Err(_) => prop_assert!(stored.masked().len() > MAX_LENGTH),
                }
            }
        }
    }
}
