"""What follows training in buffers: class weights, counts, priors, banks."""
