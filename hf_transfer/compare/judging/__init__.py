"""What runs say: paired differences with intervals, the recommendation, the verdict, the learning curve."""
