"""From captions to ids, with learned rows among them."""
