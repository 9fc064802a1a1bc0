//! The merge at save: how two requests that changed one session both win (P3). A pure function of three sets of fields.
//!
//! Not a decision about when to save or how often to try. Invariant: each field of the result is mine or theirs, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use super::field::Fields;

/// What to store, given the fields that were loaded (`base`), those there are now (`mine`), and those stored by now (`theirs`).
///
/// By field: what I changed, added or removed since I loaded it is as I have it; anything else is as they have it. Where both changed
/// the same field, mine is the later save and wins. This is what [`Session::save`](crate::Session::save) does; it is here for sessions of other kinds.
///
/// ```
/// use std::collections::BTreeMap;
/// let base = BTreeMap::from([("cart", "coat"), ("theme", "light")]);
/// let mine = BTreeMap::from([("cart", "coat, hat"), ("theme", "light")]);
/// let theirs = BTreeMap::from([("cart", "coat"), ("theme", "dark"), ("user", "ada")]);
/// let merged = cloakroom::merge(&base, &mine, &theirs);
/// assert_eq!(merged, BTreeMap::from([("cart", "coat, hat"), ("theme", "dark"), ("user", "ada")]));
/// ```
#[must_use]
pub fn merge<K: Ord + Clone, V: PartialEq + Clone>(
    base: &BTreeMap<K, V>,
    mine: &BTreeMap<K, V>,
    theirs: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let names: BTreeSet<&K> = mine.keys().chain(theirs.keys()).collect();
    let winner = |name: &K| {
        let untouched = mine.get(name) == base.get(name);
        let side = if untouched { theirs } else { mine };
        side.get(name).cloned()
    };
    names.into_iter().filter_map(|name| Some((name.clone(), winner(name)?))).collect()
}

/// The first field that both sides changed, whatever to: two who count from 1 to 2 agree on the value, and yet one of them is lost. `replaces` says
/// that mine stands for every field there is.
pub(super) fn conflict<'a>(
    base: &'a Fields,
    mine: &'a Fields,
    theirs: &'a Fields,
    replaces: bool,
) -> Option<&'a str> {
    let mut names = base.keys().chain(theirs.keys()).filter(|name| base.get(*name) != theirs.get(*name));
    names.find(|name| replaces || base.get(*name) != mine.get(*name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::field::Field;
    use super::*;

    fn fields(of: &[(&str, u8)]) -> Fields {
        of.iter().map(|(name, value)| ((*name).into(), field(*value))).collect()
    }

    fn field(value: u8) -> Field {
        Field { codec: 1, bytes: vec![value].into() }
    }

    #[test]
    fn what_each_side_did_is_kept_field_by_field() {
        let base =
            fields(&[("kept", 0), ("i change", 0), ("they change", 0), ("i remove", 0), ("they remove", 0)]);
        let mine =
            fields(&[("kept", 0), ("i change", 1), ("they change", 0), ("they remove", 0), ("i add", 1)]);
        let theirs =
            fields(&[("kept", 0), ("i change", 0), ("they change", 2), ("i remove", 0), ("they add", 2)]);
        let merged =
            fields(&[("kept", 0), ("i change", 1), ("they change", 2), ("i add", 1), ("they add", 2)]);
        assert_eq!(merge(&base, &mine, &theirs), merged);
    }

    #[test]
    fn where_both_changed_a_field_the_later_save_wins() {
        let base = fields(&[("both", 0), ("i change", 0), ("i remove", 0)]);
        let mine = fields(&[("both", 1), ("i change", 1)]);
        let theirs = fields(&[("both", 2), ("i remove", 2)]);
        assert_eq!(merge(&base, &mine, &theirs), fields(&[("both", 1), ("i change", 1)]));
    }

    /// Few names and few values, so that the three sides meet in every way.
    fn any_fields() -> impl Strategy<Value = Fields> {
        proptest::collection::btree_map("[a-f]", (0..3_u8).prop_map(field), 0..6)
    }

    /// For each name at most one side that changes it, and to what; `None` removes it.
    fn any_disjoint_changes() -> impl Strategy<Value = BTreeMap<String, (bool, Option<u8>)>> {
        proptest::collection::btree_map("[a-f]", (any::<bool>(), proptest::option::of(0..3_u8)), 0..6)
    }

    fn changed(base: &Fields, changes: &BTreeMap<String, (bool, Option<u8>)>, side: bool) -> Fields {
        let mut fields = base.clone();
        for (name, (_, value)) in changes.iter().filter(|(_, (whose, _))| *whose == side) {
            match value {
                Some(value) => fields.insert(name.clone(), field(*value)),
                None => fields.remove(name),
            };
        }
        fields
    }

    proptest! {
        #[test]
        fn disjoint_changes_commute_and_both_win(base in any_fields(), changes in any_disjoint_changes()) {
            let (a, b) = (changed(&base, &changes, false), changed(&base, &changes, true));
            let a_then_b = merge(&base, &b, &a);
            prop_assert_eq!(&a_then_b, &merge(&base, &a, &b));
            prop_assert_eq!(&a_then_b, &changed(&a, &changes, true));
        }

        #[test]
        fn merging_twice_is_merging_once(base in any_fields(), mine in any_fields(), theirs in any_fields()) {
            let once = merge(&base, &mine, &theirs);
            prop_assert_eq!(merge(&base, &mine, &once), once);
        }

        #[test]
        fn no_field_is_invented_and_none_of_my_changes_is_lost(
            base in any_fields(), mine in any_fields(), theirs in any_fields(),
        ) {
            let merged = merge(&base, &mine, &theirs);
            for (name, field) in &merged {
                prop_assert!(mine.get(name) == Some(field) || theirs.get(name) == Some(field));
            }
            for name in base.keys().chain(mine.keys()).filter(|name| base.get(*name) != mine.get(*name)) {
                prop_assert_eq!(merged.get(name), mine.get(name));
            }
        }

        #[test]
        fn a_conflict_is_a_field_that_both_changed(
            base in any_fields(), mine in any_fields(), theirs in any_fields(),
        ) {
            let both = |name: &&String| base.get(*name) != mine.get(*name) && base.get(*name) != theirs.get(*name);
            let is_one = base.keys().chain(mine.keys()).chain(theirs.keys()).any(|name| both(&name));
            let found = conflict(&base, &mine, &theirs, false);
            prop_assert_eq!(found.is_some(), is_one);
            prop_assert!(found.is_none_or(|name| both(&&name.to_string())));
            prop_assert_eq!(conflict(&base, &mine, &theirs, true).is_some(), base != theirs);
        }

        #[test]
        fn without_changes_on_one_side_the_other_stands(base in any_fields(), other in any_fields()) {
            prop_assert_eq!(&merge(&base, &base, &other), &other);
            prop_assert_eq!(&merge(&base, &other, &base), &other);
        }
    }
}
