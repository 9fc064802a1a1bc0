//! What the shop sells. A fixed list: this is an example of sessions, not of shops.

/// Something to buy.
pub struct Item {
    pub slug: &'static str,
    pub name: &'static str,
    pub sign: &'static str,
    pub cents: u32,
}

/// All there is.
pub const GOODS: [Item; 6] = [
    Item { slug: "trench", name: "Trench coat", sign: "T", cents: 18_900 },
    Item { slug: "duffle", name: "Duffle coat", sign: "D", cents: 21_500 },
    Item { slug: "rain", name: "Rain jacket", sign: "R", cents: 9_950 },
    Item { slug: "scarf", name: "Wool scarf", sign: "S", cents: 3_900 },
    Item { slug: "hat", name: "Felt hat", sign: "H", cents: 5_400 },
    Item { slug: "umbrella", name: "Umbrella", sign: "U", cents: 2_450 },
];

/// The item of that name, if there is one.
pub fn item(slug: &str) -> Option<&'static Item> {
    GOODS.iter().find(|item| item.slug == slug)
}
