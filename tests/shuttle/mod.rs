//! Models of the store's threads under a scheduler that tries other orders each time; built with `--cfg shuttle` alone.
