//! Values as they look on the wire: 64-bit ids, times, pages, filters.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use serde_json::{json, value::RawValue};
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, SchemaType, Type},
};

use super::error::ApiError;
use crate::{
    model::text,
    store::Page,
    task::{ModelId, TenantId},
};

/// Rows on a page where the request does not say.
const DEFAULT_PAGE_SIZE: i64 = 10;
/// Most rows on a page: bounds the size of an answer.
const MAX_PAGE_SIZE: i64 = 1000;

/// A 64-bit number: a string on the way out, since many JSON readers round above 2^53; a string or a
/// number on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, example = "7", pattern = "^-?[0-9]{1,19}$")]
pub(crate) struct Id(pub(crate) i64);

/// A moment: RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-22T03:04:05.678Z")]
pub(crate) struct Time(pub(crate) DateTime<Utc>);

/// Which page of a listing.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageAsk {
    /// The page, from 1.
    #[schema(schema_with = page_number)]
    page_num: Option<Id>,
    /// Rows on it.
    #[schema(schema_with = page_size)]
    page_size: Option<Id>,
}

impl PageAsk {
    /// The page, checked.
    ///
    /// # Errors
    /// Names the number that is out of range.
    pub(crate) fn check(asked: Option<PageAsk>) -> Result<Page, ApiError> {
        let asked = asked.unwrap_or_default();
        let number = asked.page_num.map_or(1, |number| number.0);
        let size = asked.page_size.map_or(DEFAULT_PAGE_SIZE, |size| size.0);
        if number < 1 {
            return Err(ApiError::validation("page.pageNum", "must be 1 or more"));
        }
        if !(1..=MAX_PAGE_SIZE).contains(&size) {
            return Err(ApiError::validation("page.pageSize", &format!("must be between 1 and {MAX_PAGE_SIZE}")));
        }
        Ok(Page { offset: (number - 1).saturating_mul(size), limit: size })
    }
}

/// A text to filter by, checked: an empty one filters nothing.
///
/// # Errors
/// Where it is longer than the column or has a NUL.
pub(crate) fn filter(field: &'static str, value: Option<String>, most: usize) -> Result<Option<String>, ApiError> {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => Ok(Some(text(field, &value, 0, most)?)),
        None => Ok(None),
    }
}

/// A moment to filter by, checked: an empty text filters nothing.
///
/// # Errors
/// Where it is not RFC 3339.
pub(crate) fn moment(field: &'static str, written: Option<String>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(written) = written.filter(|written| !written.is_empty()) else { return Ok(None) };
    let moment = DateTime::parse_from_rfc3339(&written)
        .map_err(|_| ApiError::validation(field, "must be a time as RFC 3339 writes it: 2026-11-22T03:04:05Z"))?;
    Ok(Some(moment.to_utc()))
}

/// Stored JSON text as JSON, to the letter. What is no JSON (which the database would not have
/// taken) shows as null.
pub(crate) fn raw_json(text: Option<String>) -> Option<Box<RawValue>> {
    text.and_then(|text| RawValue::from_string(text).ok())
}

/// An id on the way in, for the OpenAPI document.
pub(crate) fn id_asked() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Integer]))
        .pattern(Some("^-?[0-9]{1,18}$"))
        .examples([json!("7")])
}

fn page_number() -> ObjectBuilder {
    number_asked("The page, from 1.", 1).minimum(Some(1))
}

fn page_size() -> ObjectBuilder {
    number_asked("Rows on it.", DEFAULT_PAGE_SIZE).minimum(Some(1)).maximum(Some(MAX_PAGE_SIZE))
}

fn number_asked(description: &str, default: i64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String, Type::Null]))
        .pattern(Some("^[0-9]{1,4}$"))
        .description(Some(description))
        .default(Some(json!(default)))
}

impl From<TenantId> for Id {
    fn from(tenant: TenantId) -> Id {
        Id(tenant.0)
    }
}

impl From<ModelId> for Id {
    fn from(model: ModelId) -> Id {
        Id(model.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        deserializer.deserialize_any(IdVisitor).map(Id)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 64 bits, written as a number or as a text of digits")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: serde::de::Error>(self, digits: &str) -> Result<i64, E> {
        digits.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(digits), &self))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use serde_json::{from_str, to_value};

    use super::*;

    fn page(json: &str) -> Result<(i64, i64), ApiError> {
        PageAsk::check(Some(from_str(json).unwrap())).map(|page| (page.offset, page.limit))
    }

    #[test]
    fn an_id_is_read_as_string_or_number_and_written_as_string() {
        assert_eq!(from_str::<Id>("9007199254740993").unwrap(), Id(9_007_199_254_740_993));
        assert_eq!(from_str::<Id>("\"-7\"").unwrap(), Id(-7));
        assert_eq!(to_value(Id(7)).unwrap(), json!("7"));
        for other in ["\"\"", "\"x\"", "1.0", "1e3", "true", "null", "[]", "9223372036854775808"] {
            assert!(from_str::<Id>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_time_has_exactly_three_digits_after_the_second() {
        let whole = Utc.with_ymd_and_hms(2026, 11, 22, 3, 4, 5).unwrap();
        assert_eq!(to_value(Time(whole)).unwrap(), json!("2026-11-22T03:04:05.000Z"));
        let finer = whole + chrono::Duration::microseconds(678_999);
        assert_eq!(to_value(Time(finer)).unwrap(), json!("2026-11-22T03:04:05.678Z"));
    }

    #[test]
    fn a_page_defaults_to_the_first_ten_rows() {
        let check = |asked| PageAsk::check(asked).map(|page| (page.offset, page.limit));
        assert_eq!(check(None), Ok((0, 10)));
        assert_eq!(page("{}"), Ok((0, 10)));
        assert_eq!(page(r#"{"pageNum":"3","pageSize":20}"#), Ok((40, 20)));
    }

    #[test]
    fn a_page_out_of_range_is_refused_and_never_overflows() {
        for (json, field) in [
            (r#"{"pageNum":0}"#, "page.pageNum"),
            (r#"{"pageSize":0}"#, "page.pageSize"),
            (r#"{"pageSize":1001}"#, "page.pageSize"),
        ] {
            let error = page(json).unwrap_err();
            assert!(format!("{error:?}").contains(field), "{json}");
        }
        assert_eq!(page(r#"{"pageNum":9223372036854775807,"pageSize":1000}"#), Ok((i64::MAX, 1000)));
    }

    #[test]
    fn a_moment_is_read_in_any_zone_and_nothing_else_is() {
        let read = |written: &str| moment("createdFrom", Some(written.to_owned()));
        let at = Utc.with_ymd_and_hms(2026, 11, 22, 3, 4, 5).unwrap();
        assert_eq!(read("2026-11-22T03:04:05Z"), Ok(Some(at)));
        assert_eq!(read("2026-11-22T11:04:05.000+08:00"), Ok(Some(at)));
        assert_eq!(read(""), Ok(None));
        for other in ["2026-11-22", "yesterday", "1763780645", "2026-02-30T00:00:00Z"] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    #[test]
    fn an_empty_filter_filters_nothing_and_nul_is_refused() {
        assert_eq!(filter("modelName", Some(String::new()), 128), Ok(None));
        assert_eq!(filter("modelName", Some("a%_".into()), 128), Ok(Some("a%_".into())));
        assert!(filter("modelName", Some("a\0".into()), 128).is_err());
        assert!(filter("modelName", Some("x".repeat(129)), 128).is_err());
    }
}
