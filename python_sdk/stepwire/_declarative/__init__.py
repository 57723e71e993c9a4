"""What `stepwire.declarative` is made of: declared steps and groups, what their functions see, and what comes out."""
