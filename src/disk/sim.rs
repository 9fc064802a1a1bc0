//! A disk in memory that forgets, tears and fails on demand.
