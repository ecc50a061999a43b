"""What runs in the sandbox's own interpreters: standard library only, nothing here may import the rest of TreeRL.

The modules are loaded once by the zygote, before it locks itself in; a child finds them in memory and could not read
their files. They load few others: each page of memory that the zygote holds makes every fork slower.
"""
