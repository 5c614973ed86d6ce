//! What a caller may do, whatever its tenant: a closed set of scopes. Which route asks for which is
//! in the table of routes.

use std::fmt;

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Hand tasks in.
    TaskWrite,
    /// Look at tasks and pick results up.
    TaskRead,
    /// Look at models and change them: they show where services are and which headers they take.
    ModelWrite,
    /// Read statistics and the operation log.
    StatRead,
    /// Act for any tenant, and everything above.
    Admin,
}

/// A set of scopes. An admin has all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 5] = [Scope::TaskWrite, Scope::TaskRead, Scope::ModelWrite, Scope::StatRead, Scope::Admin];

    /// As it is written in tokens and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Scope::TaskWrite => "task:write",
            Scope::TaskRead => "task:read",
            Scope::ModelWrite => "model:write",
            Scope::StatRead => "stat:read",
            Scope::Admin => "admin",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.word() == word)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Scopes {
    /// Everything that a caller who is no admin can be allowed.
    pub const TENANT: Scopes =
        Scopes(Scope::TaskWrite.bit() | Scope::TaskRead.bit() | Scope::ModelWrite.bit() | Scope::StatRead.bit());

    /// Everything.
    pub const ADMIN: Scopes = Scopes(Scopes::TENANT.0 | Scope::Admin.bit());

    /// True where the set allows that.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// The set with one more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Scopes {
        Scopes(self.0 | scope.bit())
    }

    /// The words that are scopes. Others are left out: an identity provider grants more than ours.
    pub fn among<'a>(words: impl IntoIterator<Item = &'a str>) -> Scopes {
        words.into_iter().filter_map(Scope::from_word).fold(Scopes::default(), Scopes::with)
    }

    /// Reads scopes divided by commas or spaces, all of which must be known.
    ///
    /// # Errors
    /// Names the first word that is none, or says that there is no word.
    pub fn parse(text: &str) -> Result<Scopes, String> {
        let accepted = Scope::ALL.map(Scope::word).join(", ");
        let mut scopes = Scopes::default();
        for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
            let scope = Scope::from_word(word).ok_or_else(|| format!("{word:?} is no scope; accepted: {accepted}"))?;
            scopes = scopes.with(scope);
        }
        if scopes == Scopes::default() {
            return Err(format!("at least one scope is needed; accepted: {accepted}"));
        }
        Ok(scopes)
    }

    /// The words of the set, in their order.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0).map(Scope::word)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.words().enumerate() {
            write!(f, "{}{word}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for text in ["task:write", "task:write,task:read", "stat:read,admin"] {
            assert_eq!(Scopes::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Scopes::parse("admin, task:read").unwrap().to_string(), "task:read,admin");
        assert!(Scopes::parse("task:write,task:delete").unwrap_err().contains("\"task:delete\" is no scope"));
        assert!(Scopes::parse(" ,").unwrap_err().contains("at least one"));
    }

    #[test]
    fn an_admin_may_do_everything_and_others_what_they_were_given() {
        let admin = Scopes::default().with(Scope::Admin);
        let reader = Scopes::default().with(Scope::TaskRead);
        for scope in Scope::ALL {
            assert!(admin.allow(scope) && Scopes::ADMIN.allow(scope));
            assert_eq!(reader.allow(scope), scope == Scope::TaskRead);
            assert_eq!(Scopes::TENANT.allow(scope), scope != Scope::Admin);
            assert!(!Scopes::default().allow(scope));
        }
    }

    #[test]
    fn what_a_provider_grants_besides_is_left_out() {
        assert_eq!(Scopes::among(["openid", "task:read", "Admin"]).to_string(), "task:read");
    }
}
