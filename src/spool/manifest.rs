//! A parked result's file name, which is its manifest:
//! `<tenant>_<task id>_<attempt>_<type>_<size>_<crc as 8 hex digits>_<call time in ms>_<token>`.

use std::{path::Path, time::Duration};

use super::{Parked, file_type};
use crate::task::{Attempt, TaskKey, TenantId};

/// Between the parts; none of them contains it.
const SEPARATOR: &str = "_";

/// Random hex digits at the end.
const TOKEN_LENGTH: usize = 32;

/// The file name that says everything about `parked` (but for its path).
pub(super) fn name(parked: &Parked) -> String {
    let Parked { path: _, slot: _, key, attempt, file_type, size, crc, call_time, token } = parked;
    let TaskKey { tenant, id } = key;
    let millis = call_time.as_millis();
    format!("{tenant}_{id}_{attempt}_{file_type}_{size}_{crc:08x}_{millis}_{token}")
}

/// Reads the manifest back. Only a name that [`name`] would write is one.
pub(super) fn read(path: &Path) -> Option<Parked> {
    let file_name = path.file_name()?.to_str()?;
    let mut parts = file_name.split(SEPARATOR);
    let mut part = || parts.next();
    let parked = Parked {
        path: path.to_owned(),
        key: TaskKey { tenant: TenantId(part()?.parse().ok()?), id: part()?.parse().ok()? },
        attempt: Attempt(part()?.parse().ok()?),
        file_type: part().filter(|name| file_type::is_extension(name))?.to_owned(),
        size: part()?.parse().ok()?,
        crc: u32::from_str_radix(part()?, 16).ok()?,
        call_time: Duration::from_millis(part()?.parse().ok()?),
        token: part().filter(|token| is_token(token))?.to_owned(),
        slot: None,
    };
    // Also refuses more parts, signs, leading zeros and other spellings of the same values.
    (name(&parked) == file_name).then_some(parked)
}

fn is_token(token: &str) -> bool {
    token.len() == TOKEN_LENGTH && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str =
        "7_01970000-0000-7000-8000-000000000001_3_wav_1234_0000beef_1500_00112233445566778899aabbccddeeff";

    #[test]
    fn a_name_says_everything_and_reads_back() {
        let parked = read(Path::new("/spool").join(NAME).as_path()).unwrap();
        assert_eq!(parked.key.tenant, TenantId(7));
        assert_eq!((parked.attempt, parked.size, parked.crc), (Attempt(3), 1234, 0xbeef));
        assert_eq!((parked.file_type.as_str(), parked.call_time), ("wav", Duration::from_millis(1500)));
        assert_eq!(name(&parked), NAME);
        let below_zero = NAME.replacen('7', "-7", 1);
        assert_eq!(read(Path::new(&below_zero)).unwrap().key.tenant, TenantId(-7));
    }

    #[test]
    fn nothing_else_is_a_manifest() {
        let wrong = [
            String::new(),
            "lock".to_owned(),
            format!("{NAME}.part"),
            format!("{NAME}_1"),
            format!("0{NAME}"),
            NAME.replace("_3_", "_+3_"),
            NAME.replace("_wav_", "_WAV_"),
            NAME.replace("_wav_", "__"),
            NAME.replace("_1234_", "_-1_"),
            NAME.replace("_1234_", "_99999999999999999999_"),
            NAME.replace("beef", "BEEF"),
            NAME.replace("_0000beef_", "_beef_"),
            NAME.replace("eeff", "eef"),
            NAME.replace("eeff", "/../"),
            NAME.replace("01970000-", "01970000"),
        ];
        for name in wrong {
            assert_eq!(read(Path::new(&name)), None, "{name}");
        }
    }

    fn parked() -> impl Strategy<Value = Parked> {
        let name = ("[a-z0-9]{1,16}", "[0-9a-f]{32}");
        (any::<i64>(), any::<u128>(), any::<i32>(), any::<u64>(), any::<u32>(), any::<u64>(), name).prop_map(
            |(tenant, id, attempt, size, crc, millis, (file_type, token))| Parked {
                path: "/spool".into(),
                key: TaskKey { tenant: TenantId(tenant), id: crate::task::TaskId(uuid::Uuid::from_u128(id)) },
                attempt: Attempt(attempt),
                file_type,
                size,
                crc,
                call_time: Duration::from_millis(millis),
                token,
                slot: None,
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_is_parked_is_read_back_from_its_name(parked in parked()) {
            let read = read(&parked.path.join(name(&parked))).unwrap();
            prop_assert_eq!(name(&read), name(&parked));
            prop_assert_eq!((read.key, read.attempt, read.size), (parked.key, parked.attempt, parked.size));
            prop_assert_eq!((read.crc, read.call_time, read.token), (parked.crc, parked.call_time, parked.token));
        }

        #[test]
        fn a_name_with_something_else_in_it_is_read_to_the_letter_or_not_at_all(
            parked in parked(), at in 0..60_usize, other in prop_oneof![any::<char>(), prop::char::range('!', 'z')],
        ) {
            let mut letters: Vec<char> = name(&parked).chars().collect();
            letters[at] = other;
            let changed: String = letters.into_iter().collect();
            if let Some(read) = read(Path::new(&changed)) {
                let again = name(&read);
                prop_assert!(Path::new(&changed).ends_with(&again), "{again}");
            }
        }

        #[test]
        fn no_file_name_is_too_odd_to_be_looked_at(odd: String) {
            prop_assert!(read(Path::new(&odd)).is_none());
        }
    }
}
