"""A benchmark that ships with the project: two small backbones and six small tasks."""
