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
}
