"""What is seen of the director from outside: the life of each request, recent decisions, and metrics."""
