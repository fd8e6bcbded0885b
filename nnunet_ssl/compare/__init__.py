"""Predictions of one test set compared case by case: is a method better than the baseline on these scans."""
