//! Who is logged in.
//!
//! Invariants: at most [`SESSIONS_MAX`] sessions, of which the one idle longest goes first; a session ends after
//! [`IDLE_MAX`] without a request and after [`AGE_MAX`] in any case; a person taken out of the access file, or given
//! another role or password there, is logged out.
//! Absent on purpose: sessions that outlive the hub. After a takeover people log in again, and nothing on the store is
//! worth stealing for it.

use super::access::{InForce, Role, User, random};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The browser sends it back to this host only, over TLS only, and shows it to no script.
pub(crate) const COOKIE: &str = "__Host-selvedge";
const SESSIONS_MAX: usize = 10_000;
const IDLE_MAX: Duration = Duration::from_secs(8 * 3600);
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub name: String,
    pub role: Role,
    pub tenant: Option<String>,
    pub csrf: String,
    /// As they were in the access file; none for who signed in elsewhere.
    local: Option<User>,
    begun: Instant,
    last: Instant,
}

#[derive(Default)]
pub(crate) struct Sessions {
    all: HashMap<String, Session>,
}

impl Sessions {
    /// Begins a session and gives its id.
    pub(crate) fn begin(
        &mut self,
        name: String,
        role: Role,
        tenant: Option<String>,
        local: Option<User>,
    ) -> Result<String, String> {
        let now = Instant::now();
        self.all.retain(|_, s| s.is_alive(now));
        if self.all.len() >= SESSIONS_MAX {
            let idlest = self.all.iter().min_by_key(|(_, s)| s.last).map(|(id, _)| id.clone());
            idlest.and_then(|id| self.all.remove(&id));
        }
        let (id, csrf) = (random()?, random()?);
        self.all.insert(id.clone(), Session { name, role, tenant, csrf, local, begun: now, last: now });
        Ok(id)
    }

    pub(crate) fn get(&mut self, id: &str, force: &InForce) -> Option<Session> {
        let now = Instant::now();
        let session = self.all.get_mut(id)?;
        let stands = match &session.local {
            Some(user) => force.users.get(&user.name) == Some(user),
            None => force.oidc.is_some(),
        };
        if !stands || !session.is_alive(now) {
            self.all.remove(id);
            return None;
        }
        session.last = now;
        Some(session.clone())
    }

    pub(crate) fn end(&mut self, id: &str) {
        self.all.remove(id);
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.duration_since(self.last) < IDLE_MAX && now.duration_since(self.begun) < AGE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada(role: Role) -> User {
        User { name: "ada".into(), role, password: "$argon2id$x".into(), tenant: None }
    }

    fn force(user: Option<User>) -> InForce {
        InForce { users: user.map(|u| (u.name.clone(), u)).into_iter().collect(), ..InForce::default() }
    }

    #[test]
    fn a_session_ends_with_what_it_rests_on() {
        let mut all = Sessions::default();
        let mut begin =
            |user: &User| all.begin(user.name.clone(), user.role, None, Some(user.clone())).unwrap();
        let (first, second) = (begin(&ada(Role::Operator)), begin(&ada(Role::Operator)));
        assert_ne!(first, second);
        let there = force(Some(ada(Role::Operator)));
        assert_eq!(all.get(&first, &there).unwrap().role, Role::Operator);
        all.end(&first);
        assert!(all.get(&first, &there).is_none(), "logged out");
        assert!(all.get(&second, &force(Some(ada(Role::Viewer)))).is_none(), "another role");
        assert!(all.get(&second, &there).is_none(), "and it does not come back");
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let mut all = Sessions::default();
        let ids: Vec<String> = (0..SESSIONS_MAX + 5)
            .map(|_| all.begin("ada".into(), Role::Viewer, None, Some(ada(Role::Viewer))).unwrap())
            .collect();
        assert_eq!(all.all.len(), SESSIONS_MAX);
        assert!(all.all.contains_key(ids.last().unwrap()), "the newest stays");
    }

    #[test]
    fn an_idle_or_old_session_is_over() {
        let now = Instant::now();
        let mut s = Session {
            name: String::new(),
            role: Role::Viewer,
            tenant: None,
            csrf: String::new(),
            local: None,
            begun: now,
            last: now,
        };
        assert!(s.is_alive(now + IDLE_MAX / 2));
        assert!(!s.is_alive(now + IDLE_MAX));
        s.last = now + AGE_MAX;
        assert!(!s.is_alive(now + AGE_MAX));
    }
}
