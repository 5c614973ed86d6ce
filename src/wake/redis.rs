//! Wake-ups between nodes, over Redis PUBLISH and SUBSCRIBE.
