"""From executed notebooks to the book, the student edition, slides and a PDF."""
