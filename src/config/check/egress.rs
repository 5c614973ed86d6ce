//! `egress`: where models may be called.

use super::refuse;
use crate::{
    config::{ConfigError, Database, raw::RawEgress},
    egress::{Egress, Otherwise, Rule},
};

pub(super) fn check(raw: &RawEgress, database: &Database) -> Result<Egress, ConfigError> {
    let otherwise = match (raw.otherwise.as_str(), database) {
        ("all", _) | ("auto", Database::Sqlite { .. }) => Otherwise::All,
        ("public", _) | ("auto", Database::Postgres { .. }) => Otherwise::Public,
        ("none", _) => Otherwise::None,
        (other, _) => return Err(refuse("egress.otherwise", other, "auto, all, public, none")),
    };
    Ok(Egress::new(rules("egress.allow", &raw.allow)?, rules("egress.deny", &raw.deny)?, otherwise))
}

fn rules(key: &str, text: &str) -> Result<Vec<Rule>, ConfigError> {
    let accepted = "addresses (10.0.0.0/8, 10.1.2.3) and hosts (gpu-1, *.models.example.com), divided by commas";
    let written = text.split(',').map(str::trim).filter(|rule| !rule.is_empty());
    written.map(|rule| Rule::parse(rule).ok_or_else(|| refuse(key, rule, accepted))).collect()
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    /// Whether a model on this machine may be called under these settings.
    fn calls_this_machine(allow: &str, otherwise: &str, database: &Database) -> Result<bool, String> {
        let raw = RawEgress { allow: allow.into(), otherwise: otherwise.into(), ..RawEgress::default() };
        let egress = check(&raw, database).map_err(|error| error.key)?;
        Ok(egress.check_literal(&Url::parse("http://127.0.0.1/").unwrap()).is_ok())
    }

    #[test]
    fn private_networks_are_open_to_models_where_there_is_one_user_and_closed_where_there_may_be_many() {
        let sqlite = Database::Sqlite { path: "a.db".into() };
        let postgres = Database::Postgres { url: "postgres://db/app".into(), max_connections: 1 };
        assert_eq!(calls_this_machine("", "auto", &sqlite), Ok(true));
        assert_eq!(calls_this_machine("", "auto", &postgres), Ok(false));
        assert_eq!(calls_this_machine("", "all", &postgres), Ok(true));
        assert_eq!(calls_this_machine("", "public", &sqlite), Ok(false));
        assert_eq!(calls_this_machine(" gpu-1 , 127.0.0.0/8,", "none", &postgres), Ok(true));
        assert_eq!(calls_this_machine("", "some", &sqlite), Err("egress.otherwise".to_owned()));
        assert_eq!(calls_this_machine("10.0.0.0/40", "all", &sqlite), Err("egress.allow".to_owned()));
    }
}
